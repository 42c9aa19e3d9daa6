"""``leakguard ps``: the guarded processes of this host in one table, the worst first.

Exit status: 0, 1 if a process has found a certain leak or if there is no guarded process, 4 if none of them answered.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from leakguard.cli.asking import CLEAN, LEAKS, NOBODY, UNREACHABLE, complain
from leakguard.cli.output import write
from leakguard.judging.wording import duration
from leakguard.live.client import Answers, snapshots
from leakguard.model import Snapshot
from leakguard.prose.phrases import shown


def configure(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments: whom the caller may ask is asked."""


def run(_arguments: argparse.Namespace) -> int:
    """Print the table. Returns the exit status."""
    answers = snapshots(holds=1)
    if not answers.snapshots and not answers.unanswered:
        complain("ps", NOBODY)
        return LEAKS
    write("\n".join(table(answers)), None)
    if not answers.snapshots:
        return UNREACHABLE
    return LEAKS if any(leaks_of(snapshot) for snapshot in answers.snapshots) else CLEAN


def table(answers: Answers) -> Iterator[str]:
    """The lines: who has leaked most first, then who holds most; who did not answer last."""
    yield f"{'pid':>8}  {'held':>5}  {'oldest':>7}  {'leaks':>5}  command"
    for snapshot in sorted(answers.snapshots, key=_badness):
        oldest = duration(snapshot.holds[0].hold.held_for) if snapshot.holds else "-"
        counts = f"{snapshot.held:>5}  {oldest:>7}  {leaks_of(snapshot):>5}"
        yield f"{snapshot.pid:>8}  {counts}  {shown(snapshot.process)}{_pools(snapshot)}"
    for one in answers.unanswered:
        yield f"{one.pid:>8}  {'?':>5}  {'?':>7}  {'?':>5}  (no answer: {shown(one.words)})"


def leaks_of(snapshot: Snapshot) -> int:
    """How many certain leaks the process has found so far."""
    return sum(found.count for found in snapshot.leaks if found.certain)


def _badness(snapshot: Snapshot) -> tuple[int, int, int]:
    return -leaks_of(snapshot), -snapshot.held, snapshot.pid


def _pools(snapshot: Snapshot) -> str:
    """The pools that are full, and those that lost slots: the reason to look further."""
    short = [pool for pool in snapshot.pools if pool.capacity is not None and pool.held + pool.lost >= pool.capacity]
    words: Sequence[str] = [f'pool "{shown(pool.name)}" full' for pool in short]
    return f"  ({', '.join(words)})" if words else ""
