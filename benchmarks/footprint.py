"""What leakguard costs besides time on the hot path: memory, the watchdog's sweep, and its import.

Ten thousand connections at once are more than a server has. Bytes and sweeps are therefore measured on the tracker and
the judge themselves, which neither know nor care what the handles are: here, plain Python objects.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

from leakguard.clock import Clock
from leakguard.integrations.drivers import PSYCOPG
from leakguard.judge import Judge
from leakguard.records import HoldRecord, PoolRecord, Watch
from leakguard.settings import Settings
from leakguard.tracker import Tracker

REPOSITORY = Path(__file__).resolve().parents[1]


class Handle:
    """In the place of a connection."""


class Probe:
    """In the place of a pool's own counts: it has lost nothing."""

    def capacity(self, pool: object) -> int | None:
        """Without limit."""
        return None

    def out(self, pool: object) -> int | None:
        """Not counted."""
        return None

    def close_loses_slot(self) -> bool:
        """As psycopg_pool."""
        return True


class Bench:
    """A tracker with one pool, and a clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.tracker = Tracker(Clock(monotonic=lambda: self.now))
        self.watch = self.tracker.process_watch = Watch(Settings())
        self.tracker.assign()
        self.pool = Handle()
        self.record: PoolRecord = self.tracker.add_pool(
            self.pool, name="bench", library="psycopg_pool", probe=Probe(), created=False
        )

    def hold(self, handle: Handle) -> HoldRecord:
        """Acquire, as the integrations do."""
        wire = self.tracker.add_wire(handle, PSYCOPG, self.record)
        return self.tracker.acquired(self.record, self.watch, wire, wire.ref, "getconn", 1)

    def hold_all(self, handles: list[Handle], depth: int) -> None:
        """Acquire them all below a stack of `depth` frames; from one site, as a leak in a loop does."""
        if depth > 1:
            self.hold_all(handles, depth - 1)
        else:
            for handle in handles:
                self.hold(handle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes for each connection that is held; `connection` is what its being known costs, held or not."""

    holds: int
    hold: float
    connection: float


def memory(holds: int) -> Memory:
    """Hold so many connections, and see what that allocates."""
    bench = Bench()
    handles = [Handle() for _ in range(holds)]
    bench.hold_all([Handle() for _ in range(10)], 40)  # the first holds of a site are not like the others
    gc.collect()
    tracemalloc.start()
    try:
        for handle in handles:
            bench.tracker.add_wire(handle, PSYCOPG, bench.record)
        known, _ = tracemalloc.get_traced_memory()
        for handle in handles:
            bench.tracker.wires.pop(id(handle))
        bench.record.wires.clear()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        bench.hold_all(handles, 40)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    connection = known / holds
    return Memory(holds=holds, hold=(held - before) / holds - connection, connection=connection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweeps:
    """Seconds. The first sweep takes every hold into the schedule; the later ones find nothing due."""

    holds: int
    first: float
    later: float


def sweeps(holds: int) -> Sweeps:
    """Hold so many connections, none of them too long, and let the judge look at them."""
    bench = Bench()
    judge = Judge(bench.tracker)
    handles = [Handle() for _ in range(holds)]
    bench.hold_all(handles, 40)
    taken: list[float] = []
    for _ in range(11):
        bench.now += 1.0
        begin = time.perf_counter()
        found = judge.sweep(bench.now)
        taken.append(time.perf_counter() - begin)
        assert not found, "nothing is due"
    return Sweeps(holds=holds, first=taken[0], later=statistics.median(taken[1:]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Imports:
    """Seconds, on top of a bare interpreter's start; with compiled files in place."""

    bare: float
    importing: float
    installing: float


def imports(repeats: int) -> Imports:
    """Start interpreters, in turns: one that does nothing, one that imports leakguard, one that also installs it."""
    programs = ("pass", "import leakguard", "import leakguard; leakguard.install()")
    with tempfile.TemporaryDirectory() as directory:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LEAKGUARD"))
        }
        environment |= {"PYTHONPYCACHEPREFIX": directory, "PYTHONPATH": str(REPOSITORY)}
        taken: dict[str, list[float]] = {program: [] for program in programs}
        for turn in range(repeats + 1):
            for program in programs:
                begin = time.perf_counter()
                subprocess.run([sys.executable, "-c", program], check=True, cwd=directory, env=environment)
                if turn > 0:  # the first one compiles
                    taken[program].append(time.perf_counter() - begin)
    bare, importing, installing = (statistics.median(taken[program]) for program in programs)
    return Imports(bare=bare, importing=importing - bare, installing=installing - bare)
