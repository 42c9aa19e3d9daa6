"""What the pytest plugin costs a test that acquires nothing: whole runs of a generated suite, with and without it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from figures import Goal
from workers import processor_time_of, quiet_environment

# No other plugin, and no import of a driver: the difference is the plugin's alone.
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "leakguard.pytest_plugin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Seconds of processor time a test, and what ``--leakguard`` adds to that."""

    tests: int
    bare: float
    added: float

    def lines(self) -> Iterator[str]:
        """One line."""
        yield ""
        yield f"pytest, {self.tests:,} tests that acquire nothing (processor time)"
        yield f"  a test: {self.bare * 1e6:.0f} µs bare; --leakguard adds {self.added * 1e6:.1f} µs"

    def figures(self) -> dict[str, object]:
        """The same."""
        return asdict(self)

    def goals(self) -> Iterator[Goal]:
        """Of a test."""
        what = "pytest: added to a test that acquires nothing"
        yield Goal(what=what, figure=self.added * 1e6, limit=30, unit=" µs")


def measure(tests: int, repeats: int) -> Suite:
    """Run a suite of empty tests in turns; the start of pytest itself is taken out by a suite of half the size."""
    with tempfile.TemporaryDirectory() as directory:
        for name, count in (("test_half.py", tests // 2), ("test_whole.py", tests)):
            marked = f"@pytest.mark.parametrize('n', range({count}))"
            text = f"import pytest\n{marked}\ndef test(n):\n    pass\n"
            Path(directory, name).write_text(text, encoding="utf-8")
        taken: dict[tuple[str, bool], list[float]] = {}
        for _ in range(repeats):
            for name in ("test_half.py", "test_whole.py"):
                for guarded in (False, True):
                    taken.setdefault((name, guarded), []).append(_run(directory, name, guarded=guarded))
    half, whole = (
        {guarded: statistics.median(taken[name, guarded]) for guarded in (False, True)}
        for name in ("test_half.py", "test_whole.py")
    )
    bare, with_it = ((whole[guarded] - half[guarded]) / (tests - tests // 2) for guarded in (False, True))
    return Suite(tests=tests, bare=bare, added=with_it - bare)


def _run(directory: str, name: str, *, guarded: bool) -> float:
    environment = quiet_environment(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    command = [*COMMAND, "--leakguard", name] if guarded else [*COMMAND, name]
    return processor_time_of(command, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
