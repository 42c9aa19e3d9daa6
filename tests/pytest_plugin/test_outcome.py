"""What a leak does to a run: letters, counts, sections, exit status, JUnit XML, --lf, -x, modes, bad input."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from conftest import Runner

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.slow

needs_xdist = pytest.mark.skipif(find_spec("xdist") is None, reason="needs pytest-xdist")

LEAK_AND_CLEAN = """
def test_leaks():
    KEPT.append(psycopg.connect(DSN))

def test_clean():
    with psycopg.connect(DSN):
        pass
"""

LEAKY_FIXTURE = """
@pytest.fixture(scope="session")
def database():
    return psycopg.connect(DSN)

def test_one(database): pass
def test_two(database): pass
"""


def test_nothing_changes_unless_asked(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN, mode=None)
    assert found.status == 0
    assert "leak" not in found.last_line
    assert "leakguard:" not in found.text
    assert found.last_line == "2 passed"


def test_core_is_not_imported_unless_asked(run: Runner) -> None:
    found = run("import sys\ndef test_it(): assert 'leakguard.runtime' not in sys.modules", mode=None)
    assert found.status == 0


def test_leak_counts_as_an_error_at_teardown(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN)
    assert found.status == 1
    assert found.last_line == "2 passed, 1 leaked"
    assert "test_it.py .L." in found.text
    assert "leakguard: mode fail" in found.text
    assert "= connection leaks =" in found.text
    assert "LEAKED test_it.py::test_leaks - outstanding connection, test_it.py:" in found.text
    assert "leakguard: 1 connection leak in 1 test" in found.text


def test_report_names_the_line(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN)
    section = found.text.partition("= connection leaks =")[2].partition("= short test summary")[0]
    assert "KEPT.append(psycopg.connect(DSN))" in section
    assert "~~~~~~~~~~~~~~~~~~~~" in section
    assert "frames hidden" not in section, "pytest's own frames say nothing"
    assert "site-packages" not in section


def test_clean_run_is_silent(run: Runner) -> None:
    found = run("def test_clean():\n    with psycopg.connect(DSN): pass")
    assert found.status == 0
    assert "connection leaks" not in found.text
    assert found.last_line == "1 passed"


def test_letters_with_verbose(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN, "-v")
    assert "test_it.py::test_leaks LEAKED" in found.text


def test_warn_mode(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN, mode="--leakguard-mode=warn")
    assert found.status == 0
    assert found.last_line == "2 passed"
    assert "A warning only: the mode is warn." in found.text
    assert "leakguard: 1 warning" in found.text


def test_mode_from_the_ini_file(run: Runner) -> None:
    run.pytester.makeini("[pytest]\nleakguard_mode = fail\n")
    assert run(LEAK_AND_CLEAN, mode=None).status == 1
    assert run(LEAK_AND_CLEAN, mode="--leakguard-mode=off").status == 0


def test_failed_test_is_not_failed_twice(run: Runner) -> None:
    found = run("def test_fails():\n    connection = psycopg.connect(DSN)\n    assert 0")
    assert found.last_line == "1 failed"
    assert "A warning only: the test failed anyway" in found.text


def test_failed_teardown_is_not_failed_twice(run: Runner) -> None:
    found = run(
        """
@pytest.fixture
def broken():
    yield
    raise ValueError

def test_it(broken):
    KEPT.append(psycopg.connect(DSN))
"""
    )
    assert found.last_line == "1 passed, 1 error"
    assert "A warning only: the test failed anyway" in found.text


def test_fixture_leak_fails_the_run_and_no_test(run: Runner) -> None:
    found = run(LEAKY_FIXTURE)
    assert found.status == 1
    assert found.last_line == "2 passed, 1 leaked"
    assert "fixture database (session scope), test_it.py:" in found.text
    assert "torn down" in found.text


def test_exitfirst(run: Runner) -> None:
    found = run(LEAK_AND_CLEAN, "-x")
    assert found.last_line == "1 passed, 1 leaked"
    assert "stopping after 1 failures" in found.text


def test_exitfirst_for_a_fixture(run: Runner) -> None:
    found = run(
        """
@pytest.fixture(scope="class")
def database():
    return psycopg.connect(DSN)

class TestFirst:
    def test_one(self, database): pass

class TestSecond:
    def test_two(self): pass
""",
        "-x",
    )
    assert found.last_line == "1 passed, 1 leaked"


def test_last_failed(run: Runner) -> None:
    run(LEAK_AND_CLEAN)
    found = run(LEAK_AND_CLEAN, "--lf")
    assert found.names("PASSED") == {"test_leaks"}


def test_junit(run: Runner) -> None:
    run(LEAK_AND_CLEAN, "--junitxml=out.xml")
    suite = ElementTree.parse(run.pytester.path / "out.xml").getroot()[0]
    assert suite.get("errors") == "1"
    (case,) = (case for case in suite if case.find("error") is not None)
    assert case.get("name") == "test_leaks"
    assert [(p.get("name"), p.get("value")) for p in case.iter("property")] == [("leakguard.leaks", "1")]


def test_junit_of_a_fixture(run: Runner) -> None:
    run(LEAKY_FIXTURE, "--junitxml=out.xml")
    suite = ElementTree.parse(run.pytester.path / "out.xml").getroot()[0]
    assert suite.get("errors") == "1"
    (case,) = (case for case in suite if case.find("error") is not None)
    assert str(case.get("name")).startswith("fixture database (session scope)")


def test_report_file(run: Runner) -> None:
    file = run.pytester.path / "leaks.jsonl"
    file.write_text("an older run\n")
    run(LEAK_AND_CLEAN, "--leakguard-report=leaks.jsonl")
    events = _events(file)
    assert [event["event"] for event in events] == ["leak", "summary"]
    assert events[0]["hold"]["owner"]["test"] == "test_it.py::test_leaks"
    assert events[0]["boundary"] == "test"


@needs_xdist
def test_report_file_of_workers(run: Runner) -> None:
    run(LEAK_AND_CLEAN + LEAKY_FIXTURE, "--leakguard-report=leaks.jsonl", "-n", "2")
    events = _events(run.pytester.path / "leaks.jsonl")
    leaks = [event for event in events if event["event"] == "leak"]
    assert "test_it.py::test_leaks" in [leak["hold"]["owner"]["test"] for leak in leaks]
    assert {"fixture": "database", "scope": "session"} in [leak["hold"]["owner"]["labels"] for leak in leaks]
    assert len([event for event in events if event["event"] == "summary"]) == 3


@needs_xdist
def test_crashed_worker(run: Runner) -> None:
    found = run("def test_crash():\n    KEPT.append(psycopg.connect(DSN))\n    os._exit(1)", "-n", "1")
    assert found.status == 1
    assert "gw0 crashed: its leak data is missing" in found.text


def test_leak_found_after_the_report_is_told_and_counted(run: Runner) -> None:
    """The hold of an older thread is judged at the end; collected before, it is still the acquiring test's."""
    found = run("residents.py")
    assert found.status == 1
    assert found.names("LEAKED") == {
        "test_leaks_by_keeping",
        "test_leaks_by_drop",
        "test_dropped_three_tests_later_leaks",
    }
    assert found.last_line == "6 passed, 3 leaked"


def test_same_line_is_shown_once(run: Runner) -> None:
    found = run(
        """
def connect():
    return psycopg.connect(DSN)

def test_first():
    KEPT.append(connect())

def test_second():
    KEPT.append(connect())
"""
    )
    assert found.last_line == "2 passed, 2 leaked"
    assert found.text.count("    return psycopg.connect(DSN)\n") == 1
    assert "the same line as in test_it.py::test_first" in found.text


def test_leak_outside_of_any_test(run: Runner) -> None:
    found = run("psycopg.connect(DSN)\ndef test_it(): pass")
    assert found.status == 1
    assert found.last_line == "1 passed, 1 leaked"
    assert "LEAKED outside of any test - dropped connection, test_it.py:" in found.text


def test_report_says_who_keeps_it_and_what_to_write(run: Runner) -> None:
    found = run("def test_it():\n    connection = psycopg.connect(DSN)\n    KEPT.append(connection)")
    assert "module global `KEPT` of test_it" in found.text
    found = run("def test_it():\n    connection = psycopg.connect(DSN)\n    connection.execute('SELECT 1')")
    assert "  instead:     with psycopg.connect(DSN) as connection:" in found.text


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("source", "args", "words"),
    [
        pytest.param("", ["--leakguard-mode=loud"], "--leakguard-mode", id="mode"),
        pytest.param("", ["-o", "leakguard_mode=loud"], "leakguard_mode", id="mode in the ini file"),
        pytest.param("", ["--leakguard", "--leakguard-report=no/such/dir.jsonl"], "no/such/dir.jsonl", id="report"),
        pytest.param(
            "@pytest.mark.leakguard(alow=1)\ndef test_it(): pass", ["--leakguard"], "test_it.py::test_it", id="argument"
        ),
        pytest.param(
            "@pytest.mark.leakguard(mode='loud')\ndef test_it(): pass", ["--leakguard"], "'loud'", id="marker's mode"
        ),
        pytest.param(
            "@pytest.mark.leakguard(allow='x')\ndef test_it(): pass", ["--leakguard"], "allow='x'", id="allow"
        ),
        pytest.param("@pytest.mark.allow_leaks\ndef test_it(): pass", ["--leakguard"], "allow_leaks(", id="no reason"),
    ],
)
def test_usage_error(run: Runner, source: str, args: list[str], words: str) -> None:
    found = run(source or "def test_it(): pass", *args, mode=None)
    assert found.status == 4
    assert words in found.text
    assert "Traceback" not in found.text
    assert "INTERNALERROR" not in found.text


@needs_xdist
def test_usage_error_of_workers(run: Runner) -> None:
    found = run("@pytest.mark.leakguard(alow=1)\ndef test_it(): pass", "-n", "2")
    assert found.status == 4
    assert "test_it.py::test_it: unknown argument 'alow'" in found.text
    assert "INTERNALERROR" not in found.text


def test_bad_setting(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKGUARD_STACKS", "deep")
    found = run("def test_it(): pass")
    assert found.status == 4
    assert "LEAKGUARD_STACKS" in found.text


def test_bad_settings_do_not_matter_when_off(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKGUARD_STACKS", "deep")
    assert run("def test_it(): pass", mode=None).status == 0


def test_error_of_the_plugin_fails_no_test(run: Runner) -> None:
    found = run(
        """
from leakguard.pytest_plugin import inspection

def broken(*args, **kwargs):
    raise RuntimeError("a bug in the plugin")

inspection.Inspector.inspect = broken

def test_one(): psycopg.connect(DSN).close()
def test_two(): psycopg.connect(DSN).close()
"""
    )
    assert found.status == 0
    assert found.last_line == "2 passed"
    assert "= leakguard: internal error =" in found.text
    assert found.text.count("at the end of a test:") == 1
    assert "RuntimeError: a bug in the plugin" in found.text


# ------------------------------------------------------------------ beside the application's own leakguard


def test_application_that_installs_itself(run: Runner) -> None:
    found = run(
        """
import leakguard

def test_install():
    with leakguard.install(threshold=30.0):
        pass

def test_leaks_still_seen():
    KEPT.append(psycopg.connect(DSN))
"""
    )
    assert found.last_line == "2 passed, 1 leaked"


def test_no_thread_of_ours(run: Runner) -> None:
    """Tests that fork or count threads must not meet the watchdog."""
    found = run(
        """
import pathlib

def test_threads():
    with psycopg.connect(DSN):
        assert len(os.listdir("/proc/self/task")) == 1
""",
        "-p",
        "no:xdist",
    )
    assert found.status == 0


@pytest.mark.skipif(find_spec("pytest_rerunfailures") is None, reason="needs pytest-rerunfailures")
def test_rerunfailures(run: Runner) -> None:
    found = run(
        """
runs = []
def test_flaky():
    runs.append(1)
    assert len(runs) == 2

def test_leaks():
    KEPT.append(psycopg.connect(DSN))
""",
        "--reruns=1",
    )
    assert found.names("LEAKED") == {"test_leaks"}
    assert found.status == 1


def _events(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
