"""Checkouts with one SELECT in a second: by threads, and by tasks, that share a pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from figures import Goal
from timing import Plan, Timing, compare
from variants import ASYNC_PSYCOPG_POOL, ASYNC_SQLALCHEMY, BARE, LEAKGUARD, LISTENER, PSYCOPG_POOL, SQLALCHEMY
from workers import plain_worker

POOL_SIZE = 8
THREADS = (1, 8, 32)
COMPARED = (BARE, LEAKGUARD, LISTENER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many threads or tasks on one subject."""

    subject: str
    workers: int
    timings: Mapping[str, Timing]

    @property
    def who(self) -> str:
        """The workers, for a reader."""
        kind = "task" if self.subject in (ASYNC_PSYCOPG_POOL, ASYNC_SQLALCHEMY) else "thread"
        return f"{self.workers:,} {kind}{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """All loads."""

    loads: tuple[Load, ...]

    def lines(self) -> Iterator[str]:
        """A line for each load."""
        yield ""
        yield f"Throughput: checkouts with one SELECT 1 in a second, from a pool of {POOL_SIZE}; the best round"
        yield f"  {'':34}{'bare':>10}{LEAKGUARD:>12}{'ratio':>8}{'CPU µs':>9}{LISTENER:>24}{'ratio':>8}"
        for load in self.loads:
            bare, ours, listener = (load.timings[name] for name in COMPARED)
            yield (
                f"  {load.subject:22}{load.who:12}{1 / bare.best:10,.0f}"
                f"{1 / ours.best:12,.0f}{bare.best / ours.best:8.2f}{ours.added_cpu * 1e6:+9.1f}"
                f"{1 / listener.best:24,.0f}{bare.best / listener.best:8.2f}"
            )

    def figures(self) -> dict[str, object]:
        """Seconds a checkout, over all workers; by subject, workers and variant."""
        found: dict[str, dict[str, object]] = {}
        for load in self.loads:
            timings = {name: asdict(timing) for name, timing in load.timings.items()}
            found.setdefault(load.subject, {})[str(load.workers)] = timings
        return dict(found)

    def goals(self) -> Iterator[Goal]:
        """None: the goals are about one checkout."""
        yield from ()


def measure(dsn: str, plan: Plan, tasks: int) -> Throughput:
    """Measure each load, the variants in turns."""
    loads = [(subject, threads) for subject in (PSYCOPG_POOL, SQLALCHEMY) for threads in THREADS]
    loads += [(subject, tasks) for subject in (ASYNC_PSYCOPG_POOL, ASYNC_SQLALCHEMY)]
    with plain_worker(dsn, POOL_SIZE) as workers:
        return Throughput(
            loads=tuple(
                Load(
                    subject=subject,
                    workers=count,
                    timings=compare({name: workers.loaded(subject, name, "select", count) for name in COMPARED}, plan),
                )
                for subject, count in loads
            )
        )
