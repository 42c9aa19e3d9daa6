"""Django: threads that end with a connection, its pool, ASGI, and persistent connections."""

from __future__ import annotations

from signal import SIGINT, SIGTERM, Signals

import pytest

from tests.servers.conftest import Serve
from tests.servers.support import EXAMPLES, assert_silent, assert_sound, leaks_at

pytestmark = pytest.mark.slow
for needed in ("django", "gunicorn", "uvicorn"):
    pytest.importorskip(needed)

DJANGO = EXAMPLES / "servers" / "django_app.py"
WSGI = [
    "-m",
    "gunicorn",
    "--chdir",
    str(DJANGO.parent),
    "--bind",
    "127.0.0.1:{port}",
    "--threads",
    "4",
    "django_app:wsgi",
]
ASGI = ["-m", "uvicorn", "--app-dir", str(DJANGO.parent), "--port", "{port}", "django_app:asgi"]
RUNSERVER = [str(DJANGO), "runserver", "--noreload", "127.0.0.1:{port}"]
POOL = {"DJANGO_POOL": "4"}
PERSISTENT = {"CONN_MAX_AGE": "60"}

servers = pytest.mark.parametrize(
    ("command", "end"),
    [
        pytest.param(WSGI, SIGTERM, id="wsgi"),
        pytest.param(ASGI, SIGTERM, id="asgi"),
        pytest.param(RUNSERVER, SIGINT, id="runserver"),
    ],
)
pools = pytest.mark.parametrize(
    "environment",
    [pytest.param({}, id="direct"), pytest.param(POOL, id="pool")],
)


@servers
@pools
def test_a_thread_that_ends_with_a_connection(
    serve: Serve, command: list[str], end: Signals, environment: dict[str, str]
) -> None:
    """Django closes the connection of the thread that serves, not that of a thread which the view has started."""
    web = serve(command, "--owner-grace", "0.2", **environment)
    web.get("/export/leaky")
    web.wait_for(lambda: leaks_at(web, DJANGO, "export_leaky.work"))
    (leak,) = leaks_at(web, DJANGO, "export_leaky.work")
    assert leak["hold"]["library"] == ("psycopg_pool" if environment else "psycopg")
    assert leak["hold"]["owner"]["thread"] == "export"
    assert_sound(web.stop(end))


def test_the_pool_never_notices(serve: Serve) -> None:
    """A checkout whose thread has ended is an orphan, although nothing ever collects it: the pool refers to it."""
    web = serve(WSGI, "--owner-grace", "0.2", **POOL)
    web.get("/export/leaky")
    web.wait_for(lambda: leaks_at(web, DJANGO, "export_leaky.work"))
    (leak,) = leaks_at(web, DJANGO, "export_leaky.work")
    assert (leak["kind"], leak["healed"]) == ("orphaned", False)
    web.stop()


@servers
@pools
def test_clean_requests_are_silent(serve: Serve, command: list[str], end: Signals, environment: dict[str, str]) -> None:
    """The clean twins, a hundred times."""
    web = serve(command, "--owner-grace", "0.2", **environment)
    web.get_often("/orders", "/export")
    assert_silent(web.stop(end))


def test_a_persistent_connection_of_a_living_thread_is_silent(serve: Serve) -> None:
    """``CONN_MAX_AGE`` under WSGI: also when the server ends its threads and then itself."""
    web = serve(WSGI, "--threshold", "0.2", **PERSISTENT)
    web.get_often("/orders", "/export")
    assert_silent(web.stop())


def test_persistent_connections_leak_under_asgi(serve: Serve) -> None:
    """There each request has a thread of its own, and nobody closes what that thread leaves open."""
    web = serve(ASGI, "--owner-grace", "0.2", **PERSISTENT)
    web.get("/orders")
    web.wait_for(lambda: leaks_at(web, DJANGO, "count_orders"))
    assert_sound(web.stop())
