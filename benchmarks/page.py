"""Puts the figures of a run into the documentation: ``python benchmarks/page.py FIGURES.json``.

Writes the tables of ``docs/cost.md``, draws its plots, and keeps the figures beside them. ``--check`` writes nothing,
and says whether the page shows the figures that are kept.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from variants import BARE, DEPTH, LEAKGUARD, LISTENER, SUBJECTS, TELEMETRY

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, STATIC = DOCS / "cost.md", DOCS / "_static"
KEPT = STATIC / "bench.json"
BLOCK = re.compile(r"(?<=<!-- bench: )(?P<name>\w+)( -->\n).*?(?=<!-- bench end -->)", re.DOTALL)

Figures = Mapping[str, Any]
"""What ``run.py --json`` writes."""


def filled(page: str, figures: Figures) -> str:
    """The text of the page, with these figures. Raises KeyError where the run has left out a part."""
    return BLOCK.sub(lambda found: f"{found[1]}{found[2]}\n{BLOCKS[found['name']](figures)}\n\n", page)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _about(figures: Figures) -> str:
    about = figures["about"]
    libraries = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    rows = [
        ("leakguard", about["leakguard"]),
        ("Python", about["python"]),
        ("libraries", libraries),
        ("machine", f"{about['processors']} processors ({about['processor']}), {about['system']}"),
        ("date", about["date"]),
        ("load before the run", f"{about['load']:.1f}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def _pairs(figures: Figures) -> str:
    found = figures["parts"]["pairs"]

    def cell(subject: str, variant: str) -> str:
        timing = found[subject]["pair"][str(DEPTH)].get(variant)
        if timing is None or (variant == TELEMETRY and "psycopg" in subject):  # it sees no pool there
            return ""
        return f"{_time(timing['seconds'])}, {timing['ratio']:.2f}"

    return _by_subject(found, cell)


def _selects(figures: Figures) -> str:
    found = figures["parts"]["pairs"]

    def cell(subject: str, variant: str) -> str:
        timing = found[subject]["select"].get(variant)
        return "" if timing is None else f"{_time(timing['seconds'])}, {found[subject]['select_ratio'][variant]:.2f}"

    return _by_subject(found, cell)


def _by_subject(found: Figures, cell: Callable[[str, str], str]) -> str:
    variants = max((found[subject]["select"] for subject in SUBJECTS), key=len)
    rows = ([f"`{name}`" if "=" in name else name, *(cell(one, name) for one in SUBJECTS)] for name in variants)
    return _table(["", *SUBJECTS], rows)


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:,.{0 if seconds >= 1e-4 else 1}f} µs"


def _throughput(figures: Figures) -> str:
    rows = [
        (
            subject.partition(",")[0],
            f"{int(count):,} {'tasks' if 'async' in subject else 'threads' if count != '1' else 'thread'}",
            *(f"{1 / timings[name]['best']:,.0f}" for name in (BARE, LEAKGUARD, LISTENER)),
            f"{timings[BARE]['best'] / timings[LEAKGUARD]['best']:.2f}",
            f"{timings[LEAKGUARD]['added_cpu'] * 1e6:.0f} µs",
        )
        for subject, by_count in figures["parts"]["throughput"].items()
        for count, timings in by_count.items()
    ]
    return _table(["", "", BARE, LEAKGUARD, LISTENER, "leakguard / bare", "processor time added"], rows)


def _holds(figures: Figures) -> str:
    rows = [
        (
            f"{one['holds']:,}",
            _time(one["bare"]),
            _time(one["guarded"]),
            f"{one['idle']:.2%}",
        )
        for one in figures["parts"]["holds"]["counts"]
    ]
    return _table(["connections held", "a pair, bare", "a pair, guarded", "of a processor, idle"], rows)


def _memory(figures: Figures) -> str:
    memory = figures["parts"]["holds"]["memory"]
    rows = [
        ("a connection that is held", f"{memory['hold']:.0f} bytes"),
        ("a connection that is open, held or not", f"{memory['connection']:.0f} bytes"),
        ("a task that has acquired one, as long as the task lives", f"{memory['task']:.0f} bytes"),
    ]
    return _table(["memory for", ""], rows)


def _leaks(figures: Figures) -> str:
    rows = [
        (f"{one['rate']:,}", f"{one['bare']:.2%}", f"{one['guarded']:.2%}", f"{one['made']:,}", f"{one['told']:,}")
        for one in figures["parts"]["leaks"]["rates"]
    ]
    return _table(["leaks a second", "of a processor, bare", "guarded", "leaks made", "leaks counted"], rows)


def _start(figures: Figures) -> str:
    start, tests = figures["parts"]["start"], figures["parts"]["pytest"]
    rows = [
        ("a bare interpreter's start", f"{start['bare'] * 1e3:.0f} ms"),
        (
            "`import leakguard` adds",
            f"{start['importing'] * 1e3:.0f} ms" if start["importing"] > 1e-3 else "less than 1 ms",
        ),
        ("`import leakguard; leakguard.install()` adds", f"{start['installing'] * 1e3:.0f} ms"),
        ("a test that acquires nothing", f"{tests['bare'] * 1e6:.0f} µs"),
        ("`--leakguard` adds to it", f"{tests['added'] * 1e6:.0f} µs"),
    ]
    return _table(["", "processor time"], rows)


def _goals(figures: Figures) -> str:
    rows = [(goal["what"], goal["goal"], goal["figure"], goal["verdict"]) for goal in figures["goals"]]
    return _table(["", "goal", "measured", ""], rows)


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "about": _about,
    "pairs": _pairs,
    "selects": _selects,
    "throughput": _throughput,
    "holds": _holds,
    "memory": _memory,
    "leaks": _leaks,
    "start": _start,
    "goals": _goals,
}
"""By name: what stands between ``<!-- bench: NAME -->`` and ``<!-- bench end -->``."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; exit status 1 if the page does not show its figures."""
    parser = argparse.ArgumentParser(description="Put the figures of a run into the documentation.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("figures", type=Path, nargs="?")
    what.add_argument("--check", action="store_true", help="write nothing; say whether the page shows its figures")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    if arguments.check:
        if page == filled(page, json.loads(KEPT.read_text(encoding="utf-8"))):
            return 0
        print(f"{PAGE.name} does not show the figures of {KEPT.name}: run benchmarks/page.py on them", file=sys.stderr)
        return 1
    import plots

    figures = json.loads(arguments.figures.read_text(encoding="utf-8"))
    text = filled(page, figures)
    plots.draw(figures, STATIC)
    if arguments.figures.resolve() != KEPT:
        shutil.copyfile(arguments.figures, KEPT)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
