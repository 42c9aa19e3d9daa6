"""How cost grows with the connections that are held: for the next acquire, in memory, and while nothing happens.

A hundred thousand connections are more than a server has. The pool is SQLAlchemy's own; only the connections in it are
plain objects, and neither the pool nor leakguard cares. Each one is held by a task of its own.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from figures import Goal
from timing import InThreads
from variants import DEPTH

import leakguard

MEMORY_AT = 2_000
"""How many holds the bytes of one are an average of. All are acquired before the first becomes old."""
SETTLED = 1.0
"""Seconds after which a hold is old, and known to the watchdog's schedule."""


class Connection:
    """In the place of a driver's connection."""

    def rollback(self) -> None:
        """Nothing to undo."""

    def close(self) -> None:
        """Nothing to close."""


class Pool:
    """A pool without limit, of which many connections can be held."""

    def __init__(self, kept: int = 10) -> None:
        """The pool keeps so many connections when they come back."""
        from sqlalchemy.pool import QueuePool

        self._pool = QueuePool(Connection, pool_size=kept, max_overflow=-1)  # type: ignore[arg-type]

    def pair(self) -> None:
        """What is timed: one more connection, acquired and given back."""
        connection = self._pool.connect()
        connection.close()

    @contextmanager
    def held(self, count: int, tasks: int) -> Iterator[None]:
        """So many connections are held while the block runs, by that many tasks in another thread."""
        ready = threading.Event()
        loop = asyncio.new_event_loop()

        async def hold(done: asyncio.Event) -> None:
            connections = [self._pool.connect() for _ in range(count // tasks)]
            await done.wait()
            for connection in connections:
                connection.close()

        async def hold_all() -> None:
            nonlocal done
            done = asyncio.Event()
            holding = [loop.create_task(hold(done)) for _ in range(tasks)]
            await asyncio.sleep(0)
            loop.call_soon(ready.set)
            await asyncio.gather(*holding)

        done: asyncio.Event
        thread = threading.Thread(target=lambda: loop.run_until_complete(hold_all()))
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(done.set)
            thread.join()
            loop.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """With so many held: processor time of a pair, bare and guarded; and the share of a processor that is used while
    nothing happens."""

    holds: int
    bare: float
    guarded: float
    idle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes: of a hold, of its connection's record, which lives as long as that, and of its task's, likewise."""

    hold: float
    connection: float
    task: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holds:
    """By number of holds; and what leakguard allocates."""

    counts: tuple[Held, ...]
    memory: Memory

    def lines(self) -> Iterator[str]:
        """A line for each number."""
        yield ""
        yield "Open holds (SQLAlchemy's QueuePool, plain objects for connections, each held by a task of its own)"
        yield f"  {'held':>9}{'pair, bare':>14}{'guarded':>12}{'added':>10}{'idle':>12}"
        for one in self.counts:
            yield (
                f"  {one.holds:9,}{one.bare * 1e6:11.2f} µs{one.guarded * 1e6:9.2f} µs"
                f"{(one.guarded - one.bare) * 1e6:7.2f} µs{one.idle:12.2%}"
            )
        memory = self.memory
        yield f"  memory: a hold {memory.hold:.0f} bytes; its connection, held or not, {memory.connection:.0f} bytes"
        yield f"  a task as its owner, as long as the task lives: {memory.task:.0f} bytes more"

    def figures(self) -> dict[str, object]:
        """The same."""
        return asdict(self)

    def goals(self) -> Iterator[Goal]:
        """Memory; and that what is held costs the next acquire nothing."""
        first, last = self.counts[0], self.counts[-1]
        growth = (last.guarded / first.guarded) / (last.bare / first.bare)
        held = self.memory.hold + self.memory.connection
        yield Goal(what="memory for a connection held", figure=held, limit=1024, unit=" B")
        yield Goal(what=f"pair with {last.holds:,} held / with {first.holds}", figure=growth, limit=1.25)


def measure(counts: Sequence[int], pairs: int, settled: float = SETTLED) -> Holds:
    """Hold so many connections, one number after the other, bare and guarded."""
    Pool().pair()
    return Holds(
        counts=tuple(_measure(count, pairs, settled) for count in counts),
        memory=_memory(min(MEMORY_AT, counts[-1])),
    )


def _measure(count: int, pairs: int, settled: float) -> Held:
    pool = Pool()
    with pool.held(count, count):
        bare = _pair(pool, pairs)
    with leakguard.install():
        pool = Pool()
        with pool.held(count, count):
            time.sleep(settled + count * 20e-6)  # what has become old is looked at once
            idle = _processor_time(settled) / settled
            guarded = _pair(pool, pairs)
    return Held(holds=count, bare=bare, guarded=guarded, idle=idle)


def _pair(pool: Pool, times: int) -> float:
    """Of the processor's time: bare and guarded cannot take turns here, and other programs would count."""
    return min(InThreads().time(pool.pair, DEPTH, times)[1] for _ in range(3))


def _processor_time(seconds: float) -> float:
    before = time.process_time()
    time.sleep(seconds)
    return time.process_time() - before


def _memory(count: int) -> Memory:
    """What is allocated when guarded, less what is allocated bare."""
    bare = _allocated(count)
    with leakguard.install():
        connection, held, with_tasks = (ours - other for ours, other in zip(_allocated(count), bare, strict=True))
    return Memory(hold=held - connection, connection=connection, task=with_tasks - held)


def _allocated(count: int) -> tuple[float, float, float]:
    """Bytes for each of so many connections: idle, held by one task, held by a task each."""
    pool = Pool(count)
    found: list[float] = []
    tracemalloc.start()
    try:
        with pool.held(10, 10):
            pass  # the first holds of a site are not like the others
        before = _traced()
        with pool.held(count, 1):
            pass  # at once: a hold that has become old is remembered for a while
        found.append(_traced() - before)
        for tasks in (1, count):
            with pool.held(count, tasks):
                found.append(_traced() - before)
    finally:
        tracemalloc.stop()
    idle, held_by_one, held_by_each = found
    return idle / count, held_by_one / count, held_by_each / count


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
