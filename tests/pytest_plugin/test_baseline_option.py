"""The baseline in a run: what is known does not fail, what is new or more does, with and without xdist."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Runner

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

BASELINE = "--leakguard-baseline=known.toml"
UPDATE = "--leakguard-update-baseline"

both_ways = pytest.mark.parametrize(
    "workers",
    [
        pytest.param(["-p", "no:xdist"], id="one process"),
        pytest.param(
            ["-n", "2"],
            id="xdist",
            marks=pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist"),
        ),
    ],
)

SUITE = """
def connect():
    KEPT.append(psycopg.connect(DSN))

@pytest.mark.parametrize("number", range({count}))
def test_known(number):
    connect()

def test_clean():
    with psycopg.connect(DSN):
        pass
"""

NEW = """
def test_new():
    KEPT.append(psycopg.connect(DSN))
"""

SESSION = """
@pytest.fixture(scope="session")
def database():
    return psycopg.connect(DSN)

@pytest.mark.parametrize("number", range(6))
def test_it(database, number):
    pass
"""


def suite(count: int) -> str:
    """A suite in which one bug leaks so many times."""
    return SUITE.replace("{count}", str(count))


def entries(run: Runner) -> list[dict[str, Any]]:
    """The entries of the file."""
    return tomllib.loads((run.pytester.path / "known.toml").read_text(encoding="utf-8")).get("leak", [])


@both_ways
def test_update_writes_and_what_is_known_passes(run: Runner, workers: list[str]) -> None:
    """The first run writes the file and passes, the next one passes in silence."""
    found = run(suite(3), BASELINE, UPDATE, *workers)
    assert found.status == 0
    assert found.last_line == "4 passed"
    (entry,) = entries(run)
    assert (entry["file"], entry["max"]) == ("test_it.py", 3)
    assert f"added {entry['fingerprint']} (connect in test_it.py): at most 3" in found.text
    found = run(suite(3), BASELINE, *workers)
    assert found.status == 0
    assert found.last_line == "4 passed"
    assert "leakguard: mode fail, baseline known.toml (1 known)" in found.text
    assert "leakguard: 3 known from known.toml" in found.text
    assert "LEAK outstanding" not in found.text


@both_ways
def test_more_than_known_fails(run: Runner, workers: list[str]) -> None:
    """Exactly as many tests leak as there are leaks above the maximum, wherever they ran."""
    run(suite(2), BASELINE, UPDATE)
    found = run(suite(4), BASELINE, *workers)
    assert found.status == 1
    assert found.last_line == "5 passed, 2 leaked"
    assert "the baseline knows at most 2 of" in found.text
    assert "leakguard: 2 connection leaks in 2 tests, 2 known from known.toml" in found.text
    assert len(found.names("LEAKED")) == 2


@both_ways
def test_new_leak_fails(run: Runner, workers: list[str]) -> None:
    """A bug that the file does not list is an ordinary leak."""
    run(suite(2), BASELINE, UPDATE)
    found = run(suite(2) + NEW, BASELINE, *workers)
    assert found.status == 1
    assert found.names("LEAKED") == {"test_new"}
    assert found.last_line == "4 passed, 1 leaked"


@both_ways
def test_known_and_new_in_one_test(run: Runner, workers: list[str]) -> None:
    """Each leak of a test is judged by itself, and the report shows the new one only."""
    run(suite(1), BASELINE, UPDATE)
    found = run(
        suite(1).replace("    connect()", "    connect(); KEPT.append(psycopg.connect(DSN))"), BASELINE, *workers
    )
    assert found.last_line == "2 passed, 1 leaked"
    assert "leakguard: 1 connection leak in 1 test, 1 known from known.toml" in found.text
    assert found.text.count("LEAK outstanding") <= 2  # in the section, and in what -rA shows


@both_ways
def test_session_fixture_counts_once(run: Runner, workers: list[str]) -> None:
    """Each worker sets the fixture up, and each of them leaks: that is the one leak of a run without workers."""
    run(SESSION, BASELINE, UPDATE, *workers)
    assert [entry["max"] for entry in entries(run)] == [1]
    for others in (["-p", "no:xdist"], workers):
        found = run(SESSION, BASELINE, *others)
        assert found.status == 0
        assert found.last_line == "6 passed"


@both_ways
def test_reports_what_no_longer_occurs_after_a_full_run(run: Runner, workers: list[str]) -> None:
    """A fixed leak may leave the file; the update lowers and removes, and says so."""
    run(suite(3) + NEW, BASELINE, UPDATE)
    found = run(suite(2), BASELINE, *workers)
    assert found.status == 0
    assert "baseline known.toml: 2 of 2 entries can be removed or lowered" in found.text
    assert re.search(r"^  \w{12} \(test_new in test_it.py\): it no longer occurs$", found.text, re.MULTILINE)
    assert re.search(r"^  \w{12} \(connect in test_it.py\): only 2 instead of 3$", found.text, re.MULTILINE)
    found = run(suite(2), BASELINE, UPDATE, *workers)
    assert found.status == 0
    assert re.search(r"^  lowered \w{12} \(connect in test_it.py\): at most 2 instead of 3$", found.text, re.MULTILINE)
    assert re.search(r"^  removed \w{12} \(test_new in test_it.py\): it no longer occurs$", found.text, re.MULTILINE)
    assert [entry["max"] for entry in entries(run)] == [2]


PARTIAL = {
    "k": ["-k", "clean"],
    "m": ["-m", "not slow"],
    "deselect": ["--deselect", "test_it.py::test_known[0]"],
    "node id": ["test_it.py::test_clean"],
    "another file": ["test_other.py"],
    "ignore": ["--ignore=test_it.py"],
    "collect only": ["--collect-only"],
    "maxfail": ["--maxfail=1", "test_fails.py", "."],
    "failed": ["."],
}


KNOWN = """version = 1
[[leak]]
fingerprint = "0123456789ab"
max = 2
"""


@pytest.mark.parametrize("update", [[], [UPDATE]], ids=["read", "update"])
@pytest.mark.parametrize("args", PARTIAL.values(), ids=PARTIAL)
def test_nothing_is_said_to_be_gone_after_a_partial_run(run: Runner, args: list[str], update: list[str]) -> None:
    """What was not run may still leak: nothing is reported, lowered or removed."""
    file = run.pytester.path / "known.toml"
    file.write_text(KNOWN, encoding="utf-8")
    run.pytester.makepyfile(test_other="def test_other(): pass")
    if "." in args:
        run.pytester.makepyfile(test_fails="def test_fails(): assert 0")
    run.pytester.makeini("[pytest]\nmarkers = slow: slow\n")
    found = run(suite(1).replace("    connect()", "    pass"), BASELINE, *args, *update, "-p", "no:xdist")
    assert found.status != 4
    assert "no longer occurs" not in found.text
    assert [entry["max"] for entry in entries(run)] == [2]


@pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist")
def test_selection_of_workers_makes_the_run_partial(run: Runner) -> None:
    """With xdist only the workers know what was deselected."""
    (run.pytester.path / "known.toml").write_text(KNOWN, encoding="utf-8")
    source = suite(0)
    plugin = (
        "def pytest_collection_modifyitems(config, items):\n    config.hook.pytest_deselected(items=[items.pop()])\n"
    )
    (run.pytester.path / "chooses.py").write_text(plugin, encoding="utf-8")
    found = run(source + "\ndef test_more(): pass\n", BASELINE, UPDATE, "-p", "chooses", "-n", "2")
    assert "nothing was lowered or removed: some tests were deselected" in found.text


@pytest.mark.parametrize("args", [["."], ["test_it.py", "test_other.py"]], ids=["directory", "all files"])
def test_run_of_all_paths_is_full(run: Runner, args: list[str]) -> None:
    """Paths that leave no test file out are no selection."""
    (run.pytester.path / "known.toml").write_text(KNOWN, encoding="utf-8")
    run.pytester.makepyfile(test_other="def test_other(): pass")
    found = run(suite(0), BASELINE, *args)
    assert "it no longer occurs" in found.text


@pytest.mark.parametrize(
    ("paths", "gone"), [("test_it.py", True), ("test_[io]*.py", False), ("test_it.py test_other.py", False)]
)
def test_run_of_testpaths_is_full(run: Runner, paths: str, gone: bool) -> None:
    """What `testpaths` leaves out by itself need not be named."""
    (run.pytester.path / "known.toml").write_text(KNOWN, encoding="utf-8")
    run.pytester.makepyfile(test_other="def test_other(): pass")
    run.pytester.makeini(f"[pytest]\ntestpaths = {paths}\n")
    found = run(suite(0), BASELINE, "test_it.py")
    assert ("it no longer occurs" in found.text) == gone


@pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist")
def test_crashed_worker_makes_the_run_partial(run: Runner) -> None:
    """Its findings are missing, so nothing is removed."""
    run(suite(2), BASELINE, UPDATE)
    found = run(suite(0) + "\ndef test_crash():\n    os._exit(1)\n", BASELINE, UPDATE, "-n", "1")
    assert "nothing was lowered or removed" in found.text
    assert len(entries(run)) == 1


def test_update_keeps_the_reason_and_says_what_it_raises(run: Runner) -> None:
    """No count goes up silently, and what a person wrote stays."""
    run(suite(1), BASELINE, UPDATE)
    file = run.pytester.path / "known.toml"
    file.write_text(file.read_text(encoding="utf-8") + 'reason = "until the rewrite"\n', encoding="utf-8")
    found = run(suite(3), BASELINE, UPDATE)
    assert found.status == 0
    assert re.search(r"raised \w{12} \(connect in test_it.py\): at most 3 instead of 1", found.text)
    assert [(entry["max"], entry["reason"]) for entry in entries(run)] == [(3, "until the rewrite")]


def test_update_fails_for_what_is_no_leak(run: Runner) -> None:
    """A failing test fails; what it left open is a warning, and does not become known."""
    found = run("def test_fails():\n    connection = psycopg.connect(DSN)\n    assert 0", BASELINE, UPDATE)
    assert found.status == 1
    assert found.last_line == "1 failed"
    assert entries(run) == []


def test_marker_comes_before_the_baseline(run: Runner) -> None:
    """What a marker allows is not written."""
    found = run(
        "@pytest.mark.allow_leaks('shows the leak')\ndef test_it():\n    KEPT.append(psycopg.connect(DSN))",
        BASELINE,
        UPDATE,
    )
    assert found.status == 0
    assert entries(run) == []


@both_ways
def test_warn_mode(run: Runner, workers: list[str]) -> None:
    """In mode warn the file is written too, and what it knows is no warning."""
    warn = "--leakguard-mode=warn"
    run(suite(2), BASELINE, UPDATE, *workers, mode=warn)
    assert [entry["max"] for entry in entries(run)] == [2]
    found = run(suite(3), BASELINE, *workers, mode=warn)
    assert found.status == 0
    assert found.last_line == "4 passed"
    assert "leakguard: 1 warning, 2 known from known.toml" in found.text


@both_ways
def test_known_leaks_do_not_stop_the_run(run: Runner, workers: list[str]) -> None:
    """-x stops at the first leak that is not known."""
    run(suite(2), BASELINE, UPDATE)
    assert run(suite(2), BASELINE, "-x", *workers).last_line == "3 passed"
    found = run(suite(8), BASELINE, "-x", *workers)
    assert found.status != 0
    assert re.search(r"\b[1-6] leaked", found.last_line)
    assert len(found.names("PASSED")) < 9 or "no:xdist" not in workers


def test_known_leak_is_shown_with_verbose(run: Runner) -> None:
    """-v shows each report, as for what markers allow."""
    run(suite(1), BASELINE, UPDATE)
    found = run(suite(1), BASELINE, "-v")
    assert "Known: the baseline knows it." in found.text
    assert "LEAK outstanding" in found.text


def test_junit_and_last_failed_see_what_the_controller_decides(run: Runner) -> None:
    """A leak that is more than known only as the sum of two workers is an error for everybody."""
    pytest.importorskip("xdist")
    run(suite(1), BASELINE, UPDATE)
    found = run(suite(2), BASELINE, "-n", "2", "--dist=load", "--junitxml=out.xml")
    assert found.last_line == "3 passed, 1 leaked"
    assert 'errors="1"' in (run.pytester.path / "out.xml").read_text(encoding="utf-8")
    found = run(suite(2), BASELINE, "--lf")
    assert found.last_line.startswith("1 passed")


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        pytest.param(None, [BASELINE], "there is no baseline known.toml", id="missing"),
        pytest.param("version = 1\nleak = [[", [BASELINE], "known.toml:2: the baseline is damaged", id="damaged"),
        pytest.param("version = 0\n", [BASELINE], "known.toml:1: version 0 is no longer read", id="old"),
        pytest.param(
            "version = 0\n", [BASELINE, UPDATE], "known.toml:1: version 0 is no longer read", id="old, update"
        ),
        pytest.param("version = 9\n", [BASELINE], "known.toml:1: version 9 is of a newer leakguard", id="newer"),
        pytest.param(None, ["--leakguard-baseline=."], "cannot be read", id="directory"),
        pytest.param(None, ["--leakguard-baseline="], "names no file", id="empty"),
        pytest.param(None, [UPDATE], "needs --leakguard-baseline=FILE", id="update of nothing"),
        pytest.param(
            None, ["--leakguard-baseline=no/known.toml", UPDATE], "there is no directory no", id="no directory"
        ),
    ],
)
def test_bad_baseline_is_a_usage_error(run: Runner, text: str | None, args: list[str], words: str) -> None:
    """Exit status 4 before any test runs, and the place is named."""
    if text is not None:
        (run.pytester.path / "known.toml").write_text(text, encoding="utf-8")
    found = run("def test_it(): pass", *args)
    assert found.status == 4
    assert words in found.text
    assert "Traceback" not in found.text
    assert "INTERNALERROR" not in found.text
    assert "passed" not in found.text


def test_update_while_off_is_a_usage_error(run: Runner) -> None:
    """Nothing would be written: better said than found out."""
    found = run("def test_it(): pass", BASELINE, UPDATE, mode=None)
    assert found.status == 4
    assert "leakguard is off, add --leakguard" in found.text


def test_file_that_cannot_be_written_at_the_end(run: Runner) -> None:
    """The run says so and ends with status 4."""
    source = "import shutil\ndef test_it(): shutil.rmtree('sub')"
    (run.pytester.path / "sub").mkdir()
    found = run(source, "--leakguard-baseline=sub/known.toml", UPDATE)
    assert found.status == 4
    assert "leakguard: the baseline" in found.text
    assert "cannot be written" in found.text
