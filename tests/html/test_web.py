"""The page in a running service: shown to those who may see it, and to nobody else; and it only reads."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server
from wsgiref.validate import validator

import httpx
import psycopg_pool
import pytest
from fastapi import FastAPI

import leakguard
from leakguard import html
from leakguard.html import render
from leakguard.model import Snapshot
from leakguard.web import answers, asgi_app, wsgi_app
from tests.html.conftest import Open
from tests.html.snapshots import make_snapshot

own_snapshot = answers._own

REFUSED = "403 Forbidden\n"


def yes(_request: object) -> bool:
    """Everybody may."""
    return True


async def later_yes(_request: object) -> bool:
    """Everybody may, once it has been asked of somebody else."""
    await asyncio.sleep(0)
    return True


Tell = Callable[[Callable[..., Snapshot]], None]


@pytest.fixture
def tell(monkeypatch: pytest.MonkeyPatch) -> Tell:
    """Have the process tell something else of itself."""
    return lambda take: monkeypatch.setattr(answers, "_own", take)


@pytest.fixture(autouse=True)
def two_holds(tell: Tell) -> None:
    """The process holds two connections, unless a test has it tell something else."""
    tell(lambda *, why: make_snapshot())


def over_wsgi(authorize: Any) -> httpx.Client:
    """A client of the WSGI application, which is checked against the protocol."""
    transport = httpx.WSGITransport(app=validator(wsgi_app(authorize=authorize)))
    return httpx.Client(transport=transport, base_url="http://service")


def over_asgi(authorize: Any) -> httpx.AsyncClient:
    """A client of the ASGI application."""
    transport = httpx.ASGITransport(app=asgi_app(authorize=authorize))
    return httpx.AsyncClient(transport=transport, base_url="http://service")


async def ask(interface: str, authorize: Any, method: str = "GET", path: str = "/") -> httpx.Response:
    """One request, over the one or the other interface."""
    if interface == "wsgi":
        with over_wsgi(authorize) as client:
            return client.request(method, path)
    async with over_asgi(authorize) as client:
        return await client.request(method, path)


each_interface = pytest.mark.parametrize("interface", ["asgi", "wsgi"])

# ------------------------------------------------------------------------------------------------------ who may see it


@pytest.mark.parametrize("make", [asgi_app, wsgi_app])
@pytest.mark.parametrize("authorize", [None, True, "admin"])
def test_there_is_no_page_without_somebody_to_ask(make: Any, authorize: object) -> None:
    """It refuses to be made, and says what is missing."""
    with pytest.raises(TypeError, match=r"there is no page without a callable that takes the .SGI"):
        make(authorize=authorize)
    with pytest.raises(TypeError, match="authorize"):
        make()


def raising(_request: object) -> bool:
    """As a bug would."""
    raise KeyError("the user's secret session")


async def raising_later(_request: object) -> bool:
    """As a database that is away would."""
    raise ConnectionError("postgresql://app:hunter2@db/shop")


@each_interface
@pytest.mark.parametrize(
    "authorize",
    [
        pytest.param(lambda _request: False, id="no"),
        pytest.param(lambda _request: None, id="nothing"),
        pytest.param(lambda _request: 1, id="one"),
        pytest.param(lambda _request: "yes", id="a word"),
        pytest.param(lambda _request: object(), id="a user"),
        pytest.param(raising, id="an error"),
        pytest.param(raising_later, id="an error, later"),
        pytest.param(lambda: True, id="another signature"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # a coroutine function is no use over WSGI
async def test_only_true_lets_somebody_in(
    interface: str, authorize: Any, tell: Tell, caplog: pytest.LogCaptureFixture
) -> None:
    """Anything else is refused without a reason; nothing is taken, and the same is said of every path and method."""

    def untaken(*, why: bool) -> Snapshot:
        pytest.fail("nobody may see it")

    tell(untaken)
    for method, path in (("GET", "/"), ("GET", "/?format=json"), ("POST", "/"), ("GET", "/elsewhere")):
        response = await ask(interface, authorize, method, path)
        assert (response.status_code, response.text) == (403, REFUSED)
    assert "secret" not in caplog.text
    assert "hunter2" not in caplog.text


@each_interface
async def test_an_answer_that_is_none_is_logged_once(interface: str, caplog: pytest.LogCaptureFixture) -> None:
    """The visitor is told nothing, so whoever wrote it has to find out another way."""
    with over_wsgi(raising) as client:
        client.get("/")
        client.get("/")
    async with over_asgi(lambda _scope: "yes") as later:
        await later.get("/")
        await later.get("/")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "leakguard: the authorize of wsgi_app() raised KeyError: the page answers 403; this is said once",
        "leakguard: the authorize of asgi_app() returned a str, which is neither True nor False: the page answers 403; "
        "this is said once",
    ]


async def test_a_coroutine_may_decide() -> None:
    """It is awaited."""
    assert (await ask("asgi", later_yes)).status_code == 200


async def test_the_request_is_what_decides() -> None:
    """The scope, or the environ, is that of the request."""
    seen: list[Any] = []
    await ask("asgi", lambda scope: seen.append(scope["query_string"]) or True, path="/?token=1")
    await ask("wsgi", lambda environ: seen.append(environ["QUERY_STRING"]) or True, path="/?token=2")
    assert seen == [b"token=1", "token=2"]


# ------------------------------------------------------------------------------------------------------ what it answers


@each_interface
async def test_the_page_is_whole_and_guarded(interface: str) -> None:
    """It may not be framed, stored or sniffed, tells no other site where it was, and runs its own script only."""
    response = await ask(interface, yes)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["content-length"] == str(len(response.content))
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")
    assert policy["style-src"].startswith("'sha256-")
    assert "2 connections held now" in response.text


@each_interface
async def test_the_data_can_be_had_alone(interface: str) -> None:
    """As JSON, for the page that is open already."""
    response = await ask(interface, yes, path="/?format=json")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["headline"].startswith("2 connections held now")
    assert response.headers["cache-control"] == "no-store"


@each_interface
async def test_a_head_is_a_page_without_a_body(interface: str) -> None:
    """With the headers of the page."""
    head = await ask(interface, yes, "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert int(head.headers["content-length"]) > 10_000


@each_interface
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
async def test_it_only_reads(interface: str, method: str) -> None:
    """No other method does anything."""
    response = await ask(interface, yes, method)
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@each_interface
async def test_there_is_one_page(interface: str) -> None:
    """Nothing below it."""
    assert (await ask(interface, yes, path="/favicon.ico")).status_code == 404


@each_interface
async def test_an_error_stays_inside(interface: str, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted, the visitor is told nothing of it, and the application does not notice."""
    told: list[str] = []
    runtime = leakguard.runtime.current()
    monkeypatch.setattr(runtime, "internal_error", lambda where, error: told.append(f"{where}: {error}"))

    def broken(*, why: bool) -> Snapshot:
        raise RuntimeError("hunter2")

    tell(broken)
    response = await ask(interface, yes)
    assert (response.status_code, response.text) == (500, "500 Internal Server Error\n")
    assert told == ["web: hunter2"]


async def test_many_who_look_cost_one_look(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a second everybody gets the same snapshot; whoever asks for more than it has gets a new one."""
    taken: list[bool] = []

    def counted(*, why: bool) -> Snapshot:
        taken.append(why)
        return make_snapshot()

    tell(counted)
    monkeypatch.setattr(answers, "_FRESH", 3600.0)
    async with over_asgi(yes) as client:
        await asyncio.gather(*(client.get("/?format=json") for _ in range(10)))
        await client.get("/?format=json&why=1")
        await client.get("/")
        monkeypatch.setattr(answers, "_FRESH", 0.0)
        await client.get("/")
    assert taken == [False, True, False]


def test_without_jinja_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install, when it is made and not when somebody looks."""
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    render._assets.cache_clear()
    with pytest.raises(html.MissingJinjaError, match=r"pip install 'leakguard\[html\]'"):
        wsgi_app(authorize=yes)
    render._assets.cache_clear()


# ------------------------------------------------------------------------------------------------------ where it is put


@pytest.mark.parametrize("path", ["/leaks", "/leaks/", "/leaks?format=json"])
async def test_it_is_mounted_in_an_asgi_application(path: str) -> None:
    """Below any path, with and without a slash at its end."""
    service = FastAPI()
    service.mount("/leaks", asgi_app(authorize=yes))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=service), base_url="http://service") as client:
        response = await client.get(path, follow_redirects=True)
        assert response.status_code == 200
        assert "2 connections held now" in response.text
        assert (await client.get("/leaks/more")).status_code == 404


async def converse(kind: str, *messages: str) -> list[dict[str, Any]]:
    """What the ASGI application sends in a scope that is no request."""
    said = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(said)}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    await asgi_app(authorize=yes)({"type": kind}, receive, send)
    return sent


async def test_it_can_be_served_alone() -> None:
    """A server asks it to start and to stop."""
    sent = await converse("lifespan", "lifespan.startup", "lifespan.shutdown")
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


async def test_a_websocket_is_refused() -> None:
    """Before it is accepted."""
    assert await converse("websocket", "websocket.connect") == [{"type": "websocket.close", "code": 1008}]


def test_another_event_loop_will_do() -> None:
    """One that is not asyncio's has no such threads: then the page is made at once."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("there is no body to read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b""}
    coroutine: Any = asgi_app(authorize=yes)(scope, receive, send)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    assert sent[0]["status"] == 200


# --------------------------------------------------------------------------------------------------------- in a browser


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_message(self, *_arguments: object) -> None:
        """Not even this."""


Serve = Callable[[Any], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a WSGI application; returns its address."""
    running: list[Any] = []

    def serve(application: Any) -> str:
        server = make_server("127.0.0.1", 0, application, handler_class=Quiet)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield serve
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


FAST = "const timer = window.setTimeout; window.setTimeout = (call, delay) => timer(call, delay / 25);"


@pytest.mark.slow
def test_a_page_that_is_open_follows_the_process(show: Open, serve: Serve, tell: Tell, dsn: str) -> None:
    """A real pool: what is held appears, what keeps it alive is told when asked, and what is given back disappears."""
    tell(own_snapshot)
    with (
        leakguard.install(on_leak=lambda _event: None, live=False),
        psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=3, name="orders") as pool,
    ):
        tab = show(serve(wsgi_app(authorize=yes)), first=FAST)
        assert tab.text("h1").startswith("0 connections held now")
        held = pool.getconn()
        tab.wait("document.querySelector('h1').textContent.startsWith('1 connection held now')")
        assert "held = pool.getconn()" in tab.text("#list")
        assert tab.text("figcaption").startswith("orders")
        assert tab.text(".limit-word") == "limit 3"
        tab.click("#why")
        tab.wait("document.querySelector('.kept')")
        assert "held" in tab.text(".kept")
        assert "with pool.connection() as held:" in tab.text(".cure")
        assert tab.text("#pause") == "Paused"
        pool.putconn(held)
        tab.click("#pause")
        tab.wait("document.querySelector('h1').textContent.startsWith('0 connections held now')")


@pytest.mark.slow
def test_a_page_that_is_open_says_when_it_is_shut_out(show: Open, serve: Serve) -> None:
    """The last it knows stays, with a word that it is old."""
    allowed = [True]
    tab = show(serve(wsgi_app(authorize=lambda _environ: allowed[0])), first=FAST)
    allowed[0] = False
    tab.wait("document.getElementById('about').textContent.endsWith('no newer data: it answers 403')")
    assert len(tab.texts("#list [role=option]")) == 2
    tab.expect("403")  # the console names each of them


@pytest.mark.slow
def test_a_new_look_disturbs_nothing(show: Open, serve: Serve) -> None:
    """What is chosen, unfolded and focused stays so."""
    tab = show(serve(wsgi_app(authorize=yes)), first=FAST)
    tab.click("#list [data-at='1']")
    tab.click("#detail details summary")
    before = tab.evaluate("document.querySelector('#detail h3').marked = true")
    tab.wait("document.querySelector('#detail h3').marked === undefined")
    assert before
    assert tab.text("#detail h3") == "/srv/shop/web.py:31"
    assert tab.evaluate("document.querySelector('#detail details').open")
    assert tab.evaluate("document.activeElement.tagName") == "SUMMARY"
