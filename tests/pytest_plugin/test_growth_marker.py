"""The marker `leakguard_growth`: a test is run several times, and fails for what grows."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Runner

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

GROWS = """
RUNS = []
CLOSE_KEPT = True

@pytest.fixture
def number():
    return len(RUNS)

@pytest.mark.leakguard_growth(rounds=3)
def test_grows(number):
    RUNS.append(number)
    KEPT.append(psycopg.connect(DSN))

@pytest.mark.leakguard_growth(rounds=3, warmup=2)
def test_is_flat():
    RUNS.append(-1)
    psycopg.connect(DSN).close()

def test_was_run_so_often():
    assert RUNS == [0] * 4 + [-1] * 5
"""


def test_fails_for_what_grows(run: Runner) -> None:
    """The rounds share the fixtures, and the report has the counts."""
    found = run(GROWS)
    assert found.names("FAILED") == {"test_grows"}
    assert found.names("PASSED") == {"test_is_flat", "test_was_run_so_often"}
    assert "1 thing grew in each of 3 rounds:" in found.text
    assert "counts: 1, 2, 3, 4" in found.text
    assert "Traceback" not in found.text


def test_mode_warn_makes_it_a_warning(run: Runner) -> None:
    """The test passes, and pytest's own section of warnings has the report."""
    found = run(GROWS, mode="--leakguard-mode=warn")
    assert found.status == 0
    assert "GrowthWarning: 1 thing grew in each of 3 rounds" in found.text


def test_runs_once_where_leakguard_is_off(run: Runner) -> None:
    """Without the option a marked test is an ordinary one."""
    found = run(GROWS.replace("[0] * 4 + [-1] * 5", "[0, -1]"), mode=None)
    assert found.status == 0


@pytest.mark.parametrize(
    ("package", "marker"), [("pytest_asyncio", "pytest.mark.asyncio"), ("anyio", "pytest.mark.anyio")]
)
def test_coroutine_function(run: Runner, package: str, marker: str) -> None:
    """An async test stays one, for the plugin that runs those."""
    if find_spec(package) is None:
        pytest.skip(f"needs {package}")
    found = run(
        f"""
CLOSE_KEPT = False

@{marker}
@pytest.mark.leakguard_growth(rounds=2)
async def test_grows():
    KEPT.append(await psycopg.AsyncConnection.connect(DSN))

@{marker}
@pytest.mark.leakguard_growth(rounds=2)
async def test_is_flat():
    async with await psycopg.AsyncConnection.connect(DSN):
        pass
""",
        "-p",
        "no:anyio" if package == "pytest_asyncio" else "no:asyncio",
    )
    names = {name.partition("[")[0] for name in found.names("FAILED")}
    assert names == {"test_grows"}
    assert "1 thing grew in each of 2 rounds" in found.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [("rounds=1", "rounds=1"), ("3", "keywords only"), ("round=3", "unknown argument 'round'")],
)
def test_bad_argument_is_a_usage_error(run: Runner, arguments: str, words: str) -> None:
    """Exit status 4, with the test's name."""
    found = run(f"@pytest.mark.leakguard_growth({arguments})\ndef test_it(): pass")
    assert found.status == 4
    assert "test_it.py::test_it" in found.text
    assert words in found.text
