"""Test runs in a process of their own, against the real server, with the plugin loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import pytest

SUITES = Path(__file__).parent / "suites"
LINE = re.compile(r"^(PASSED|LEAKED|FAILED|ERROR|XFAIL|XPASS|SKIPPED) (.+?)(?: - .*)?$", re.MULTILINE)
LAST_LINE = re.compile(r"^=* ?(.+) in [\d.]+s(?: \(.*\))? ?=*$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One finished run of pytest."""

    result: pytest.RunResult
    text: str

    @property
    def status(self) -> int:
        return int(self.result.ret)

    def names(self, word: str) -> set[str]:
        """The tests, by function name, and fixtures ("fixture x") that the short summary lists under a word."""
        names = (match[2] for match in LINE.finditer(self.text) if match[1] == word)
        return {_short(name) for name in names}

    @property
    def last_line(self) -> str:
        """The counts: ``2 passed, 1 leaked``."""
        return LAST_LINE.findall(self.text)[-1]


def _short(name: str) -> str:
    if name.startswith("fixture "):
        return " ".join(name.split(" (")[0].split()[:2])
    return name.rpartition("::")[2]


class Runner:
    """Runs pytest on a suite of `suites/`, or on the text of a test file."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, source: str, *args: str, mode: str | None = "--leakguard") -> Run:
        if source.endswith(".py"):
            text = (SUITES / source).read_text(encoding="utf-8")
            (self.pytester.path / f"test_{source}").write_text(text, encoding="utf-8")
        elif source:
            self.pytester.makepyfile(test_it=f"{PRELUDE}\n{source}")
        self.pytester.makeconftest(CONFTEST)
        loaded = any(entry.name == "leakguard" for entry in entry_points(group="pytest11"))
        plugin = [] if loaded else ["-p", "leakguard.pytest_plugin"]
        on = [mode] if mode is not None else []
        result = self.pytester.runpytest_subprocess(*plugin, "-p", "no:randomly", "-rA", *on, *args)
        return Run(result, f"{result.stdout.str()}\n{result.stderr.str()}")


# The server has room for few connections: what a test has leaked is closed once the test has been judged.
CONFTEST = """
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    yield
    if getattr(item.module, "CLOSE_KEPT", False):
        for kept in item.module.KEPT:
            getattr(kept, "close", getattr(kept, "dispose", None))()
        item.module.KEPT.clear()
    return True
"""

PRELUDE = """
import os
import psycopg
import pytest

DSN = os.environ["DSN"]
KEPT = []
"""


@pytest.fixture
def run(pytester: pytest.Pytester, dsn: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Run pytest on tests that find the database's address in ``os.environ["DSN"]``."""
    monkeypatch.setenv("DSN", dsn)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return Runner(pytester)
