"""Who is blamed: every scenario of `suites/` leaking and clean, alone and spread over xdist's workers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Runner

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

WORKERS = pytest.param(
    ["-n", "2"], marks=pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist"), id="xdist"
)


@pytest.mark.parametrize("args", [pytest.param([], id="alone"), WORKERS])
@pytest.mark.parametrize("suite", ["verdicts.py", "residents.py", "tasks.py", "scopes.py"])
def test_blamed_are_those_who_leak(run: Runner, suite: str, args: list[str]) -> None:
    """The names of tests and fixtures say whether they leak."""
    found = run(suite, *args)
    everybody = found.names("PASSED") | found.names("XFAIL") | found.names("SKIPPED")
    assert not (found.names("FAILED") | found.names("ERROR")), found.text
    assert "internal error" not in found.text
    assert found.status == 1
    tests = {name.partition("[")[0] for name in found.names("LEAKED") if not name.startswith("fixture ")}
    # A skipped test is listed by file and line, without its name.
    expected = {name for name in everybody if "leaks" in name and "::" not in name and name.startswith("test_")}
    assert tests - {"test_skipped_leaks"} == expected
    fixtures = {name for name in found.names("LEAKED") if name.startswith("fixture ")}
    assert fixtures == FIXTURES.get(suite, set())


FIXTURES = {
    "scopes.py": {
        "fixture of_session_leaks",
        "fixture of_module_leaks",
        "fixture one_of_two_leaks[b]",
        "fixture leaks_in_teardown",
    },
    "tasks.py": {"fixture of_module_leaks"},
}
