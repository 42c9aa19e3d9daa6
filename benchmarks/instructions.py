"""Instructions instead of seconds, by valgrind: they come out the same on a busy machine, and on the next one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from figures import Goal
from variants import BARE, DEPTH, LEAKGUARD, PSYCOPG_POOL, SQLALCHEMY
from workers import command, quiet_environment

VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
FEW, MANY = 500, 2_500
"""Two runs of so many operations: their difference is without the interpreter's start and end."""
TRIES = 2
"""Of which the lowest counts: on a busy machine a run takes longer, and the watchdog looks more often."""
COUNTED = [(subject, use) for subject in (PSYCOPG_POOL, SQLALCHEMY) for use in ("pair", "select")]
VARIANTS = (BARE, LEAKGUARD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """Of one operation, by subject, use and variant. None where valgrind is missing."""

    counts: Mapping[tuple[str, str], Mapping[str, float]] | None

    def lines(self) -> Iterator[str]:
        """A line for each use."""
        yield ""
        yield f"Instructions of the interpreter's process (stack depth {DEPTH})"
        if self.counts is None:
            yield "  (not counted: valgrind is not installed)"
            return
        yield f"  {'':34}{'bare':>12}{'guarded':>12}{'added':>12}{'ratio':>8}"
        for (subject, use), by_variant in self.counts.items():
            bare, ours = (by_variant[name] for name in VARIANTS)
            what = "pair" if use == "pair" else "with one SELECT 1"
            yield f"  {subject:14}{what:20}{bare:12,.0f}{ours:12,.0f}{ours - bare:12,.0f}{ours / bare:8.2f}"

    def figures(self) -> dict[str, object]:
        """The same."""
        return {f"{subject}, {use}": counts for (subject, use), counts in (self.counts or {}).items()}

    def goals(self) -> Iterator[Goal]:
        """None: the goals are about time."""
        yield from ()


def measure(dsn: str) -> Instructions:
    """Count under valgrind, which takes about five minutes."""
    if shutil.which(VALGRIND[0]) is None:
        return Instructions(counts=None)
    return Instructions(
        counts={
            (subject, use): {variant: _one(dsn, subject, use, variant) for variant in VARIANTS}
            for subject, use in COUNTED
        }
    )


def _one(dsn: str, subject: str, use: str, variant: str) -> float:
    few, many = (
        min(_count(dsn, subject, use=use, variant=variant, times=times) for _ in range(TRIES)) for times in (FEW, MANY)
    )
    return (many - few) / (MANY - FEW)


def _count(dsn: str, subject: str, **order: object) -> int:
    text = json.dumps({"subject": subject, "depth": DEPTH, "workers": 0, **order})
    done = subprocess.run(
        [*VALGRIND, *command([subject], dsn, 1)],
        input=text,
        env=quiet_environment(PYTHONHASHSEED="0"),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"valgrind has ended with status {done.returncode}:\n{done.stderr}")
    return int(found[1].replace(",", ""))
