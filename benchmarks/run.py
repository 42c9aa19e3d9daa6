"""What leakguard costs, measured on a real PostgreSQL in one run: ``make bench``.

All variants take turns, and every ratio compares neighbours in time, so that a noisy machine disturbs them alike.
Guarded and bare take turns within one process (install() and uninstall() are exact); what changes an interpreter has
a process of its own. All figures are medians.

``--only NAME`` measures one part (may be repeated). ``--quick`` measures little, to see that everything works; its
figures mean nothing. ``--json FILE`` also writes the figures to a file, ``--plots DIRECTORY`` draws them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import depth
import holds
import instructions
import leaks
import machine
import pairs
import startup
import suite
import throughput
from figures import Goal, Result
from timing import Plan
from variants import DEPTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much to measure."""

    pairs: Plan
    selects: Plan
    depths: Plan
    loads: Plan
    tasks: int
    frames: int
    """That tracemalloc keeps. With 25, the imports alone take a quarter of a minute."""
    held: tuple[int, ...]
    held_pairs: int
    settled: float
    leaking: float
    leakings: int
    starts: int
    tests: int
    suites: int


FULL = Size(
    pairs=Plan(repeats=15, seconds=0.012),
    selects=Plan(repeats=15, seconds=0.030),
    depths=Plan(repeats=7, seconds=0.012),
    loads=Plan(repeats=9, seconds=0.15),
    tasks=1_000,
    frames=25,
    held=(1, 10, 100, 1_000, 10_000, 100_000),
    held_pairs=10_000,
    settled=holds.SETTLED,
    leaking=1.0,
    leakings=3,
    starts=20,
    tests=4_000,
    suites=5,
)
QUICK = Size(
    pairs=Plan(repeats=2, seconds=0.001),
    selects=Plan(repeats=2, seconds=0.001),
    depths=Plan(repeats=1, seconds=0.001),
    loads=Plan(repeats=1, seconds=0.001),
    tasks=20,
    frames=1,
    held=(1, 100),
    held_pairs=100,
    settled=0.05,
    leaking=0.02,
    leakings=1,
    starts=2,
    tests=40,
    suites=1,
)


def _with_server(measure: Callable[[str, Size], Result]) -> Callable[[Size], Result]:
    def measured(size: Size) -> Result:
        with machine.server() as dsn:
            return measure(dsn, size)

    return measured


PARTS: dict[str, Callable[[Size], Result]] = {
    "pairs": _with_server(lambda dsn, size: pairs.measure(dsn, size.pairs, size.selects, size.frames)),
    "throughput": _with_server(lambda dsn, size: throughput.measure(dsn, size.loads, size.tasks)),
    "depth": _with_server(lambda dsn, size: depth.measure(dsn, size.depths)),
    "holds": lambda size: holds.measure(size.held, size.held_pairs, size.settled),
    "leaks": _with_server(lambda dsn, size: leaks.measure(dsn, size.leaking, size.leakings)),
    "start": lambda size: startup.measure(size.starts),
    "pytest": lambda size: suite.measure(size.tests, size.suites),
    "instructions": _with_server(lambda dsn, size: instructions.measure(dsn)),
}
ONLY_WHEN_ASKED = {"instructions"}
"""Takes minutes, and valgrind."""


def print_goals(goals: Sequence[Goal]) -> None:
    """Each goal, and whether it is met."""
    print(f"\nGoals (stack depth {DEPTH})")
    for goal in goals:
        figure, limit, verdict = goal.shown
        print(f"  {goal.what:52}{figure:>14}  {limit:>10}  {verdict}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. A missed goal is printed, not an exit status: it depends on the machine."""
    parser = argparse.ArgumentParser(description="Measure what leakguard costs, on a throw-away PostgreSQL.")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="measure little: only to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="also draw them, as SVG and PNG")
    arguments = parser.parse_args(argv)
    if arguments.plots and find_spec("matplotlib") is None:  # said before minutes of measuring
        parser.error("--plots needs matplotlib, which is not installed: pip install 'leakguard[bench]'")
    size = QUICK if arguments.quick else FULL
    about = machine.describe()
    print(f"leakguard {about['leakguard']}, Python {about['python']}, {about['system']}, {about['processor']}")
    results: dict[str, Result] = {}
    begin = time.monotonic()
    with machine.one_core():
        for name, measure in PARTS.items():
            if name in arguments.only if arguments.only else name not in ONLY_WHEN_ASKED:
                results[name] = measure(size)
                print("\n".join(results[name].lines()), flush=True)
    goals = [goal for result in results.values() for goal in result.goals()]
    print_goals(goals)
    figures = {
        "about": about,
        "seconds": time.monotonic() - begin,
        "parts": {name: result.figures() for name, result in results.items()},
        "goals": [
            {"what": goal.what, **dict(zip(("figure", "goal", "verdict"), goal.shown, strict=True))} for goal in goals
        ],
    }
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.plots:
        import plots

        plots.draw(figures, arguments.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
