"""``make bench`` works and tells what it promises. Its figures are not judged here: they depend on the machine."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ["pairs", "throughput", "depth", "holds", "leaks", "start", "pytest"]
SUBJECTS = ["psycopg_pool", "SQLAlchemy", "psycopg_pool, async", "SQLAlchemy, async"]
OURS = ["bare", "leakguard", "stacks=full", "stacks=site", "stacks=off", "enabled=False"]
# Each parent must be there before its children are asked for; the extra `dev` has one of the two instrumentations only.
HAS_TELEMETRY = all(
    find_spec(name) is not None
    for name in (
        "opentelemetry",
        "opentelemetry.instrumentation",
        "opentelemetry.instrumentation.psycopg",
        "opentelemetry.instrumentation.sqlalchemy",
    )
)
NO_TELEMETRY = "  (OpenTelemetry is not installed: pip install 'leakguard[bench]')"
TELEMETRY = ["OpenTelemetry"] if HAS_TELEMETRY else []

needs_telemetry = pytest.mark.skipif(not HAS_TELEMETRY, reason="OpenTelemetry's instrumentation is not installed")
needs_matplotlib = pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")


def run(program: str, *arguments: str | Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of the programs, with `path` on its PYTHONPATH."""
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(path)} if path else None,
    )


def variants_of(subject: str) -> list[str]:
    """What is compared for a subject, in the order of the table."""
    echo = ["echo_pool='debug'"] if subject.startswith("SQLAlchemy") else []
    return [*OURS, "format_stack listener", *echo, *TELEMETRY, "tracemalloc=25"]


@pytest.fixture
def nothing_optional(tmp_path: Path) -> Path:
    """A directory that hides matplotlib and OpenTelemetry from the interpreter that has it on its path."""
    text = "import sys\nsys.modules['matplotlib'] = sys.modules['opentelemetry'] = None\n"
    Path(tmp_path, "sitecustomize.py").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_quick_run_prints_the_tables_and_writes_the_figures(tmp_path: Path) -> None:
    """Every subject with every variant, the loads, what grows, and the goals, each met or missed."""
    file = tmp_path / "new" / "figures.json"
    told = run("run.py", "--quick", "--json", file)
    assert (told.returncode, told.stderr) == (0, "")
    lines = told.stdout.splitlines()

    headed = [above for above, line in itertools.pairwise(lines) if line.lstrip().startswith("pair, depth 10")]
    assert [line.partition(":")[0] for line in headed] == SUBJECTS
    names = [name for subject in SUBJECTS for name in variants_of(subject)]
    tables = lines[: next(at for at, line in enumerate(lines) if line.startswith("Throughput"))]
    rows = [line for line in tables if len(line[26:].split()) == 9 and "time" not in line]
    assert [row[2:26].strip() for row in rows] == names, "time, added and ratio, three times"
    for word in (
        "psycopg_pool          32 threads ",
        "SQLAlchemy, async     20 tasks ",
        "memory: a hold ",
        "import ",
    ):
        assert any(line.strip().startswith(word) for line in lines), word
    goals = lines[lines.index("Goals (stack depth 40)") + 1 :]
    assert len(goals) == 16 + 2 * len(TELEMETRY)
    assert HAS_TELEMETRY or NO_TELEMETRY in lines
    assert {goal.split()[-1] for goal in goals} <= {"met", "missed"}

    figures = json.loads(file.read_text(encoding="utf-8"))
    assert list(figures["parts"]) == PARTS
    assert list(figures["parts"]["pairs"]) == SUBJECTS
    for subject, found in figures["parts"]["pairs"].items():
        assert list(found["pair"]) == ["10", "40"]
        for timings in (*found["pair"].values(), found["select"]):
            assert list(timings) == variants_of(subject)
            assert all(timing["seconds"] > 0 for timing in timings.values())
    assert {rate["rate"]: rate["made"] for rate in figures["parts"]["leaks"]["rates"]}[10_000] == 200
    assert all(rate["told"] == rate["made"] for rate in figures["parts"]["leaks"]["rates"]), "each leak was counted"
    assert len(figures["goals"]) == len(goals)


@pytest.mark.slow
def test_one_part_alone() -> None:
    """``--only`` measures what it names, and judges no other goals."""
    told = run("run.py", "--quick", "--only", "start")
    assert (told.returncode, told.stderr) == (0, "")
    assert [line.partition(" ")[0] for line in told.stdout.splitlines() if line[:1].isalpha()] == [
        "leakguard",
        "Start",
        "Goals",
    ]


@pytest.mark.slow
@needs_telemetry
def test_what_is_not_installed_is_left_out(nothing_optional: Path) -> None:
    """Without OpenTelemetry its rows and goals are missing, and the table says how to get them."""
    told = run("run.py", "--quick", "--only", "pairs", path=nothing_optional)
    assert (told.returncode, told.stderr) == (0, "")
    assert [line for line in told.stdout.splitlines() if "OpenTelemetry" in line] == [NO_TELEMETRY]


@pytest.mark.slow
def test_plots_that_cannot_be_drawn_are_a_usage_error(nothing_optional: Path) -> None:
    """Said before anything is measured."""
    told = run("run.py", "--plots", nothing_optional, path=nothing_optional)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.endswith("--plots needs matplotlib, which is not installed: pip install 'leakguard[bench]'\n")


@pytest.mark.parametrize("option", ["--fast", "--only=everything"])
def test_a_bad_option_is_a_usage_error(option: str) -> None:
    """Exit status 2, and nothing is measured."""
    told = run("run.py", option)
    assert (told.returncode, told.stdout) == (2, "")
    assert "usage:" in told.stderr


def test_the_page_shows_its_figures() -> None:
    """The tables of docs/cost.md are those of the run that is kept beside it."""
    told = run("page.py", "--check")
    assert (told.returncode, told.stderr) == (0, "")


@pytest.mark.slow
@needs_matplotlib
def test_the_kept_figures_can_be_drawn(tmp_path: Path) -> None:
    """Each plot of the page, as SVG and as PNG."""
    static = BENCHMARKS.parent / "docs" / "_static"
    told = run("plots.py", static / "bench.json", tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {f"bench-{name}.{kind}" for name in ("pairs", "growth", "throughput") for kind in ("svg", "png")}
    assert drawn == {path.name for path in static.iterdir()} - {"bench.json"}
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
