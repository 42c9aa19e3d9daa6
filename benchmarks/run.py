"""What leakguard costs, measured on a real PostgreSQL in one run: ``make bench``.

Guarded and bare take turns within one process (install() and uninstall() are exact), and every ratio compares two
neighbours in time, so that a noisy machine disturbs both alike. All figures are medians.

``--quick`` measures little, to see that everything works; its figures mean nothing. ``--json FILE`` also writes the
figures to a file.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import footprint
from subjects import Subject, subjects
from suite import Suite, suite
from timing import Operation, Plan, Timing, Variant, compare

import leakguard
from leakguard.demo.postgres import PostgresServer

DEPTHS = (10, 40)
DEPTH = 40
"""The stack depth that the goals are meant for."""
BARE, GUARDED, LISTENER = "bare", "guarded", "format_stack listener"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much to measure."""

    pairs: Plan
    selects: Plan
    held: int
    swept: int
    imports: int
    tests: int
    suites: int


FULL = Size(
    pairs=Plan(repeats=15, seconds=0.010),
    selects=Plan(repeats=20, seconds=0.040),
    held=10_000,
    swept=100_000,
    imports=20,
    tests=4_000,
    suites=5,
)
QUICK = Size(
    pairs=Plan(repeats=2, seconds=0.001),
    selects=Plan(repeats=2, seconds=0.002),
    held=1_000,
    swept=1_000,
    imports=2,
    tests=40,
    suites=1,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """The timings of one subject: pairs by depth and variant, checkouts with one SELECT by variant."""

    subject: Subject
    pairs: dict[int, dict[str, Timing]]
    selects: dict[str, Timing]

    @property
    def share(self) -> float:
        """What guarding adds to a pair, as a share of a bare checkout with one SELECT."""
        return self.pairs[DEPTH][GUARDED].added / self.selects[BARE].seconds

    @property
    def select_ratio(self) -> float:
        """How much longer a checkout with one SELECT takes: the processor time that guarding adds, on the bare time.

        Not the ratio of two times: a round trip takes as long as the machine's scheduler pleases, give or take ten
        percent, and a hundredth of it cannot be seen that way.
        """
        return 1.0 + self.selects[GUARDED].added_cpu / self.selects[BARE].seconds

    def times_cheaper(self, depth: int) -> float:
        """How many times less guarding adds than the listener that people write by hand."""
        added = self.pairs[depth][GUARDED].added
        return min(999.0, self.pairs[depth][LISTENER].added / added) if added > 0 else 999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure beside what it should be."""

    what: str
    figure: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(subject: Subject, size: Size) -> Costs:
    """Time everything about one subject."""
    variants: dict[str, Variant] = {
        BARE: _guarded(subject.pair, None),
        GUARDED: _guarded(subject.pair, {}),
        "stacks=full": _guarded(subject.pair, {"stacks": "full"}),
        "stacks=site": _guarded(subject.pair, {"stacks": "site"}),
        "stacks=off": _guarded(subject.pair, {"stacks": "off"}),
        "enabled=False": _guarded(subject.pair, {"enabled": False}),
        LISTENER: subject.listening,
    }
    selects: dict[str, Variant] = {BARE: _guarded(subject.select, None), GUARDED: _guarded(subject.select, {})}
    return Costs(
        subject=subject,
        pairs={depth: compare(variants, subject.timer, depth, size.pairs) for depth in DEPTHS},
        selects=compare(selects, subject.timer, DEPTH, size.selects),
    )


def _guarded(
    operation: Operation, settings: dict[str, object] | None
) -> Callable[[], AbstractContextManager[Operation]]:
    @contextmanager
    def enter() -> Iterator[Operation]:
        if settings is None:
            yield operation
        else:
            with leakguard.install(**settings):
                yield operation

    return enter


def goals_for(
    costs: Sequence[Costs], memory: footprint.Memory, imports: footprint.Imports, tested: Suite
) -> list[Goal]:
    """The goals of docs/design.md beside the figures."""
    found: list[Goal] = []
    for limit, one in zip((1.75, 1.25), costs, strict=False):
        name, pair = one.subject.name, one.pairs[DEPTH]
        found += [
            Goal(what=f"{name}: pair, guarded / bare", figure=pair[GUARDED].ratio, limit=limit),
            Goal(what=f"{name}: with one SELECT 1, guarded / bare", figure=one.select_ratio, limit=1.01),
            Goal(
                what=f"{name}: added by the listener / by leakguard",
                figure=one.times_cheaper(DEPTH),
                limit=10.0,
                at_least=True,
            ),
            Goal(what=f"{name}: enabled=False / bare", figure=pair["enabled=False"].ratio, limit=1.03),
        ]
    held = memory.hold + memory.connection
    found.append(Goal(what="memory for a connection held", figure=held, limit=1024, unit=" B"))
    found.append(Goal(what="import leakguard", figure=imports.importing * 1e3, limit=20, unit=" ms"))
    found.append(
        Goal(what="pytest: added to a test that acquires nothing", figure=tested.added * 1e6, limit=30, unit=" µs")
    )
    return found


# --- telling ---------------------------------------------------------------------------------------------------------


def print_costs(costs: Costs) -> None:
    """One subject's table."""
    subject, bare = costs.subject, costs.selects[BARE].seconds
    print(f"\n{subject.name}: {subject.pair_is}")
    print(f"  {'µs a pair':24}" + "".join(f"{f'depth {depth}':>10}{'added':>8}{'ratio':>7}   " for depth in DEPTHS))
    for name in costs.pairs[DEPTH]:
        cells = [costs.pairs[depth][name] for depth in DEPTHS]
        text = "".join(f"{one.seconds * 1e6:10.2f}{one.added * 1e6:8.2f}{one.ratio:7.2f}   " for one in cells)
        print(f"  {name:24}{text}")
    cheaper = " and ".join(f"{costs.times_cheaper(depth):.1f}" for depth in DEPTHS)
    print(f"  leakguard adds {cheaper} times less than the listener (depth {DEPTHS[0]} and {DEPTHS[1]})")
    print(f"  a checkout with one SELECT 1, bare: {bare * 1e6:.1f} µs; a guarded pair alone adds {costs.share:.2%}")
    print(
        f"  guarded / bare, by the processor time that is added: {costs.select_ratio:.3f}"
        f" (by the clock: {costs.selects[GUARDED].ratio:.3f})"
    )


def print_footprint(memory: footprint.Memory, sweeps: footprint.Sweeps, imports: footprint.Imports) -> None:
    """Memory, sweeps and imports."""
    print("\nMemory and sweep (tracker and judge alone, with plain objects for connections)")
    print(
        f"  a hold, with {memory.holds:,} held: {memory.hold:.0f} bytes;"
        f" its connection's record, held or not: {memory.connection:.0f} bytes"
    )
    print(
        f"  sweep over {sweeps.holds:,} holds, none due: the first {sweeps.first * 1e3:.1f} ms"
        f" ({sweeps.first / sweeps.holds * 1e6:.2f} µs a hold, once in its life),"
        f" later ones {sweeps.later * 1e6:.0f} µs"
    )
    print("\nImport (on top of a bare interpreter, compiled files in place)")
    print(
        f"  import leakguard: {imports.importing * 1e3:.1f} ms;"
        f" import, install, exit: {imports.installing * 1e3:.1f} ms;"
        f" the bare interpreter: {imports.bare * 1e3:.1f} ms"
    )


def print_suite(tested: Suite) -> None:
    """The plugin's cost."""
    print(f"\npytest, {tested.tests:,} tests that acquire nothing")
    print(f"  a test: {tested.bare * 1e6:.0f} µs bare; --leakguard adds {tested.added * 1e6:.1f} µs")


def print_goals(goals: Sequence[Goal]) -> None:
    """Each goal, and whether it is met."""
    print(f"\nGoals (stack depth {DEPTH})")
    for goal in goals:
        figure, limit = f"{goal.figure:.3f}{goal.unit}", f"{'>=' if goal.at_least else '<='} {goal.limit:g}{goal.unit}"
        print(f"  {goal.what:52}{figure:>14}  {limit:>10}  {'pass' if goal.met else 'miss'}")


def as_json(
    costs: Sequence[Costs],
    memory: footprint.Memory,
    sweeps: footprint.Sweeps,
    imports: footprint.Imports,
    tested: Suite,
    goals: Sequence[Goal],
) -> dict[str, object]:
    """All figures, in seconds and bytes."""

    def timings(found: dict[str, Timing]) -> dict[str, object]:
        return {name: asdict(timing) for name, timing in found.items()}

    return {
        "python": platform.python_version(),
        "subjects": {
            one.subject.name: {
                "pair": {str(depth): timings(found) for depth, found in one.pairs.items()},
                "select": timings(one.selects),
                "select_ratio": one.select_ratio,
                "share_of_select": one.share,
            }
            for one in costs
        },
        "bytes": {"held": memory.holds, "hold": memory.hold, "connection": memory.connection},
        "sweep": {"held": sweeps.holds, "first": sweeps.first, "later": sweeps.later},
        "import": {"bare": imports.bare, "import": imports.importing, "install": imports.installing},
        "pytest": asdict(tested),
        "goals": [{"what": goal.what, "figure": goal.figure, "limit": goal.limit, "met": goal.met} for goal in goals],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. A missed goal is printed, not an exit status: it depends on the machine."""
    parser = argparse.ArgumentParser(description="Measure what leakguard costs, on a throw-away PostgreSQL.")
    parser.add_argument("--quick", action="store_true", help="measure little: only to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args(argv)
    size = QUICK if arguments.quick else FULL
    logging.getLogger("leakguard").setLevel(logging.CRITICAL)  # nothing leaks here; a slow machine may be suspected
    print(f"leakguard {leakguard.__version__}, Python {platform.python_version()}, {platform.machine()}")
    imports = footprint.imports(size.imports)
    memory, sweeps = footprint.memory(size.held), footprint.sweeps(size.swept)
    costs: list[Costs] = []
    with PostgresServer() as server, subjects(server.dsn()) as measured:
        for subject in measured:
            costs.append(measure(subject, size))
            print_costs(costs[-1])
    tested = suite(size.tests, size.suites)
    goals = goals_for(costs, memory, imports, tested)
    print_footprint(memory, sweeps, imports)
    print_suite(tested)
    print_goals(goals)
    if arguments.json:
        found = as_json(costs, memory, sweeps, imports, tested, goals)
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
