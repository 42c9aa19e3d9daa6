"""gunicorn with Flask and SQLAlchemy: one process or several, threads, ``--preload`` and gevent."""

from __future__ import annotations

import pytest

from tests.servers.conftest import Serve
from tests.servers.support import EXAMPLES, assert_silent, assert_sound, leaks_at

pytestmark = pytest.mark.slow
for needed in ("flask", "gevent", "gunicorn"):
    pytest.importorskip(needed)

FLASK = EXAMPLES / "servers" / "flask_app.py"
GUNICORN = ["-m", "gunicorn", "--chdir", str(FLASK.parent), "--bind", "127.0.0.1:{port}"]

forms = pytest.mark.parametrize(
    "form",
    [
        pytest.param([], id="sync"),
        pytest.param(["--threads", "4"], id="threads"),
        pytest.param(["--workers", "2", "--preload"], id="preload"),
        pytest.param(["--worker-class", "gevent"], id="gevent"),
    ],
)


@forms
def test_leaks_are_found(serve: Serve, form: list[str]) -> None:
    """In the worker that leaked, at the line that acquired; each process says what came of it when it is ended."""
    web = serve([*GUNICORN, *form, "flask_app:app"], "--owner-grace", "0.2")
    web.get("/orders/leaky")
    web.get("/export/leaky")
    web.wait_for(lambda: leaks_at(web, FLASK, "export_leaky.work"))
    events = web.stop()
    assert_sound(events)
    assert leaks_at(web, FLASK, "orders_leaky")
    (export,) = leaks_at(web, FLASK, "export_leaky.work")
    assert (export["kind"], export["now"]["owner"]) == ("orphaned", "ended")
    assert export["hold"]["owner"]["thread"] == "export"
    assert export["hold"]["owner"]["pid"] != web.pid
    workers = 2 if "--workers" in form else 1
    assert len({event["pid"] for event in events if event["event"] == "summary"}) == 1 + workers


@forms
def test_clean_requests_are_silent(serve: Serve, form: list[str]) -> None:
    """The clean twins, a hundred times."""
    web = serve([*GUNICORN, *form, "flask_app:app"], "--owner-grace", "0.2")
    web.get_often("/orders", "/export")
    assert_silent(web.stop())
