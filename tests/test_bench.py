"""``make bench`` works and tells what it promises. Its figures are not judged here: they depend on the machine."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "run.py"
SUBJECTS = ["psycopg_pool", "SQLAlchemy", "psycopg_pool, async", "SQLAlchemy, async"]
VARIANTS = [
    "bare",
    "guarded",
    "stacks=full",
    "stacks=site",
    "stacks=off",
    "enabled=False",
    "format_stack listener",
]

pytestmark = pytest.mark.slow


def test_a_quick_run_prints_the_tables_and_writes_the_figures(tmp_path: Path) -> None:
    """Every subject with every variant, at both depths; memory, sweeps, imports; the goals, each met or missed."""
    file = tmp_path / "figures.json"
    program = [sys.executable, str(PROGRAM), "--quick", "--json", str(file)]
    told = subprocess.run(program, capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()

    headed = [above for above, line in itertools.pairwise(lines) if line.startswith("  µs a pair")]
    assert [line.partition(":")[0] for line in headed] == SUBJECTS
    rows = [line for line in lines if line.startswith(tuple(f"  {name}  " for name in VARIANTS))]
    assert [row[2:26].strip() for row in rows] == VARIANTS * len(SUBJECTS)
    assert all(len(row[26:].split()) == 6 for row in rows), "a time, what is added and a ratio, at two depths"
    for word in ("a hold, with", "sweep over", "import leakguard"):
        assert any(line.startswith(f"  {word}") for line in lines), word
    goals = lines[lines.index("Goals (stack depth 40)") + 1 :]
    assert len(goals) == 11
    assert {goal.split()[-1] for goal in goals} <= {"pass", "miss"}

    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures["subjects"]) == SUBJECTS
    for subject in figures["subjects"].values():
        assert list(subject["pair"]) == ["10", "40"]
        assert all(list(timings) == VARIANTS for timings in subject["pair"].values())
        assert all(timing["seconds"] > 0 for timings in subject["pair"].values() for timing in timings.values())
        assert list(subject["select"]) == ["bare", "guarded"]
    assert figures["bytes"]["hold"] > 0
    assert len(figures["goals"]) == len(goals)


def test_a_bad_option_is_a_usage_error() -> None:
    """Exit status 2, and nothing is measured."""
    told = subprocess.run([sys.executable, str(PROGRAM), "--fast"], capture_output=True, text=True)
    assert told.returncode == 2
    assert "usage:" in told.stderr
