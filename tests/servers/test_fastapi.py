"""FastAPI under uvicorn: a dependency that never gives its connection back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.conftest import Serve
from tests.servers.support import EXAMPLES, assert_silent, assert_sound, leaks_at

pytestmark = pytest.mark.slow
for needed in ("fastapi", "uvicorn"):
    pytest.importorskip(needed)

FASTAPI = EXAMPLES / "fastapi_app.py"
UVICORN = ["-m", "uvicorn", "--app-dir", str(FASTAPI.parent), "--port", "{port}"]
forms = pytest.mark.parametrize("form", [pytest.param([], id="one"), pytest.param(["--workers", "2"], id="workers")])


@forms
def test_leaks_are_found(serve: Serve, form: list[str]) -> None:
    """And summed up, although uvicorn ends by the signal that has ended it."""
    web = serve([*UVICORN, *form, "fastapi_app:app"])
    web.get("/orders")
    web.wait_for(lambda: leaks_at(web, FASTAPI, "get_connection"))
    events = web.stop()
    assert_sound(events)
    assert {leak["kind"] for leak in leaks_at(web, FASTAPI, "get_connection")} == {"dropped"}


@forms
def test_clean_requests_are_silent(serve: Serve, form: list[str]) -> None:
    """The clean twin, a hundred times."""
    web = serve([*UVICORN, *form, "fastapi_app:app"])
    web.get_often("/mended")
    assert_silent(web.stop())


def test_a_thread_of_anyio_owns_nothing(serve: Serve) -> None:
    """AnyIO ends idle threads: a connection outlives the one that its dependency ran in, and is no orphan."""
    folder = str(Path(__file__).parent / "programs")
    web = serve(
        ["-m", "uvicorn", "--app-dir", folder, "--port", "{port}", "slow_dependency:app"], "--owner-grace", "0.1"
    )
    assert web.get("/slow") == '"done"'
    assert_silent(web.stop())
