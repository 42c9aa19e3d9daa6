"""What the pytest plugin costs a test that acquires nothing: whole runs of a generated suite, with and without it."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# No other plugin, and no import of a driver: the difference is the plugin's alone.
COMMAND = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "leakguard.pytest_plugin"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Seconds a test, and what ``--leakguard`` adds to that."""

    tests: int
    bare: float
    added: float


def suite(tests: int, repeats: int) -> Suite:
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
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "LEAKGUARD"))}
    environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [*COMMAND, "--leakguard", name] if guarded else [*COMMAND, name]
    begin = time.perf_counter()
    subprocess.run(command, check=True, cwd=directory, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin
