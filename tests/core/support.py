"""A pool and a driver made of plain objects, which tell the tracker what an integration tells it; and time by hand.

They stand for no real library: what the tracker and the judge make of acquire, use, release and collection is tested
here, what psycopg and SQLAlchemy really do in the tests with a server.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leakguard import runtime
from leakguard.judging.judge import Finding, Judge, Outcome
from leakguard.model import Server, State
from leakguard.register.records import Account, HoldRecord, PoolRecord, Watch, Wire
from leakguard.register.tracker import PendingLeaks, Tracker
from leakguard.settings import Settings
from leakguard.testing import FakeClock


class Connection:
    """A connection whose transaction state is set by the test."""

    def __init__(self, state: State = "idle") -> None:
        self.state: State = state


class Driver:
    """Asks a `Connection` for its state."""

    library = "psycopg"
    embedded = False

    def state(self, connection: object) -> State:
        assert isinstance(connection, Connection)
        return connection.state

    def server(self, connection: object) -> Server | None:
        return None


DRIVER = Driver()


class Probe:
    """Asks a `Pool` for its counts."""

    def __init__(self, *, loses_slot: bool = True) -> None:
        self.loses_slot = loses_slot

    def capacity(self, pool: object) -> int | None:
        assert isinstance(pool, Pool)
        return pool.size

    def account(self, pool: object) -> Account | None:
        assert isinstance(pool, Pool)
        return None if pool.out is None else Account(out=pool.out, home=pool.home, waiting=pool.waiting)

    def close_loses_slot(self) -> bool:
        return self.loses_slot


class Pool:
    """A pool: `out` is its own count of what is checked out, which a test may falsify, as `waiting` and `home`."""

    def __init__(
        self,
        tracker: Tracker,
        name: str = "main",
        *,
        size: int | None = 4,
        library: str = "psycopg_pool",
        created: bool = True,
        probe: Probe | None = None,
    ) -> None:
        self.tracker, self.size = tracker, size
        self.out, self.waiting = 0, 0
        self.home: int | None = None
        self.idle: list[Connection] = []
        self._probe = probe or Probe()
        self.record = self._adopt(name, library, self._probe, created=created)

    def _adopt(self, name: str, library: str, probe: Probe, *, created: bool) -> PoolRecord:
        return self.tracker.add_pool(self, name=name, library=library, probe=probe, created=created)

    def getconn(self, state: State = "idle") -> Connection:
        """Acquire, as a wrapped ``getconn`` does."""
        # Known under another record after a fork, and under none once the last guard has gone.
        self.record = self.tracker.pool_of(self) or self._adopt(
            self.record.name, self.record.library, self._probe, created=False
        )
        try:
            watch = self.tracker.begin(self.record)
        except PendingLeaks as pending:
            runtime.current().raise_pending(pending.args[0])
            raise AssertionError from None
        connection = self.idle.pop() if self.idle else Connection()
        connection.state = state
        self.out += 1
        if watch is not None:
            wire = self.tracker.wire_of(connection) or self.tracker.add_wire(connection, DRIVER, self.record)
            if wire.pool is not self.record:
                self.tracker.give_to_pool(wire, self.record)
            self.tracker.acquired(self.record, watch, wire, wire.ref, "getconn", 2)
        return connection

    def putconn(self, connection: Connection) -> None:
        """Release, as a wrapped ``putconn`` does."""
        wire = self.tracker.wire_of(connection)
        hold = wire.hold if wire is not None else None
        while hold is not None and hold.pool.pool() is not self:
            hold = hold.beneath
        if hold is not None:
            self.tracker.released(hold)
        self.out -= 1
        self.idle.append(connection)


def connect(tracker: Tracker, state: State = "idle") -> Connection:
    """Open a connection directly, as a wrapped driver does."""
    connection = Connection(state)
    wire = tracker.add_wire(connection, DRIVER)
    watch = tracker.direct.watch
    if watch is not None:
        tracker.acquired(tracker.direct, watch, wire, wire.ref, "connect", 2)
    return connection


def close(tracker: Tracker, connection: Connection) -> None:
    """Close a connection by a call, whoever it belongs to."""
    tracker.wire_closed(wire_of(tracker, connection))


def wire_of(tracker: Tracker, connection: object) -> Wire:
    """The wire, which must be known."""
    wire = tracker.wire_of(connection)
    assert wire is not None
    return wire


def hold_of(tracker: Tracker, connection: object) -> HoldRecord:
    """The hold on this connection, which must be held."""
    hold = wire_of(tracker, connection).hold
    assert hold is not None
    return hold


class Bench:
    """A tracker and a judge on a fake clock, without guard, threads or reports."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.tracker = Tracker(self.clock)
        self.watch = self.tracker.process_watch = Watch(Settings(**settings))
        self.tracker.assign()
        self.judge = Judge(self.tracker, settling=0.0)
        self.pools: list[Pool] = []

    def pool(self, name: str = "main", **options: Any) -> Pool:
        """A pool that is being created now; `pools` keeps it alive."""
        self.pools.append(Pool(self.tracker, name, **options))
        return self.pools[-1]

    def beat(self) -> list[Outcome]:
        """One round of the watchdog: what has happened, then what is due, then what came of that."""
        return [*self.drain(), *self.judge.sweep(self.clock.monotonic()), *self.drain()]

    def drain(self) -> list[Outcome]:
        """Only what has happened."""
        outcomes: list[Outcome] = []
        now = self.clock.monotonic()
        while not self.tracker.signals.empty():
            outcomes += self.judge.take(self.tracker.signals.get(), now)
            outcomes += self.judge.settle(now)
        return outcomes

    def advance(self, seconds: float) -> list[Outcome]:
        """Let time pass as the watchdog spends it; everything found on the way, and at the end of it."""
        end = self.clock.monotonic() + seconds
        outcomes = self.beat()
        while (left := end - self.clock.monotonic()) > 0:
            self.clock.advance(min(left, max(self.judge.wait_for(self.clock.monotonic()), 0.001)))
            outcomes += self.beat()
        return outcomes

    def kinds(self, seconds: float) -> list[str]:
        """The kinds of what is found within so many seconds from now."""
        return kinds(self.advance(seconds))

    def counts(self) -> tuple[int, int, int, int]:
        """Acquired, released, held and leaked, as the summary counts them."""
        from leakguard.register.records import count_of

        acquired = count_of(self.watch.acquired) - count_of(self.watch.forgotten)
        held = sum(len(record.holds()) for record in self.tracker.records())
        return acquired, acquired - held - self.watch.collected, held, self.watch.collected


def kinds(outcomes: list[Outcome]) -> list[str]:
    """What was found, by kind."""
    return [outcome.kind for outcome in outcomes if isinstance(outcome, Finding)]


def in_thread(work: Callable[[], object], name: str = "worker") -> Any:
    """Run `work` in a thread of its own that has ended on return; its result, or what it raised."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    if failure:
        raise failure[0]
    return result[0]


def wait_until(true: Callable[[], bool]) -> None:
    """Wait for another thread or process, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "this never came about"
        time.sleep(0.001)


def library_code(source: str, file: str = "library.py", **names: object) -> dict[str, Any]:
    """Run `source` as if it stood in the standard library; its names. (What stands there is never a site.)"""
    namespace: dict[str, Any] = dict(names)
    exec(compile(source, str(Path(os.__file__).parent / file), "exec"), namespace)
    return namespace
