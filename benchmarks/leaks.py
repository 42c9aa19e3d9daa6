"""How cost grows with the leaks in a second: checkouts that are dropped, found, healed by SQLAlchemy, and reported."""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from figures import Goal

import leakguard

if TYPE_CHECKING:
    import sqlalchemy

RATES = (0, 10, 100, 1_000, 10_000)
TICKS = 100
"""How often in a second the leaks that are due are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At so many leaks a second: the share of a processor that the whole program takes, bare and guarded.

    `told` is how many leaks of those made were counted by the end.
    """

    rate: int
    bare: float
    guarded: float
    made: int
    told: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaks:
    """By rate."""

    rates: tuple[Rate, ...]

    def lines(self) -> Iterator[str]:
        """A line for each rate."""
        yield ""
        yield "Leaks a second (SQLAlchemy checkouts, dropped in one line): share of one processor"
        heads = "".join(f"{head:>12}" for head in ("bare", "guarded", "added", "CPU a leak", "made", "counted"))
        yield f"  {'leaks a second':>16}{heads}"
        for one in self.rates:
            added = one.guarded - one.bare
            each = f"{added / one.rate * 1e6:9.1f} µs" if one.rate else f"{'-':>12}"
            yield (
                f"  {one.rate:16,}{one.bare:12.2%}{one.guarded:12.2%}{added:12.2%}{each}{one.made:12,}{one.told:12,}"
            )

    def figures(self) -> dict[str, object]:
        """The same."""
        return asdict(self)

    def goals(self) -> Iterator[Goal]:
        """A program without leaks is left alone, and a flood is folded, not lost."""
        idle = self.rates[0].guarded - self.rates[0].bare
        yield Goal(what="processor that an idle watchdog takes", figure=idle * 100, limit=0.5, unit=" %")
        lost = sum(one.made - one.told for one in self.rates)
        yield Goal(what="leaks of a flood that are missing in the count", figure=lost, limit=0)


def measure(dsn: str, seconds: float, repeats: int) -> Leaks:
    """Leak at each rate, bare and guarded in turns."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        with _logged_to_nobody():
            return Leaks(rates=tuple(_measure(engine, rate, seconds, repeats) for rate in RATES))
    finally:
        engine.dispose()


def _measure(engine: sqlalchemy.Engine, rate: int, seconds: float, repeats: int) -> Rate:
    shares: dict[bool, list[float]] = {False: [], True: []}
    made, told = 0, Counter()
    for _ in range(repeats):
        for guarded in (False, True):
            with leakguard.install(on_leak=["log", told]) if guarded else nullcontext():
                begin, begin_cpu = time.perf_counter(), time.process_time()
                leaked = _leak(engine, rate, seconds)
                taken, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
            shares[guarded].append(cpu / taken)
            made += leaked if guarded else 0
    bare, guarded_share = (statistics.median(shares[guarded]) for guarded in (False, True))
    return Rate(rate=rate, bare=bare, guarded=guarded_share, made=made, told=told.total)


def _leak(engine: sqlalchemy.Engine, rate: int, seconds: float) -> int:
    made = 0
    begin = time.monotonic()
    for tick in range(round(seconds * TICKS)):
        due = rate * (tick + 1) // TICKS
        for _ in range(due - made):
            engine.connect()  # and nobody keeps it
        made = due
        time.sleep(max(0.0, begin + (tick + 1) / TICKS - time.monotonic()))
    return made


class Counter:
    """A reporter that believes the summaries."""

    def __init__(self) -> None:
        self.total = 0

    def report(self, event: object) -> None:
        """Add what a guard has counted until its end."""
        if isinstance(event, leakguard.Summary):
            self.total += event.leaks.get("dropped", 0)


@contextmanager
def _logged_to_nobody() -> Iterator[None]:
    """What is logged is formatted and written, as it would be, but nobody sees it."""
    logger = logging.getLogger("leakguard")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        handler = logging.StreamHandler(nowhere)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
