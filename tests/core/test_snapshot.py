"""Snapshots: live records become frozen values that refer to nothing alive."""

from __future__ import annotations

import asyncio
import os
import threading
from datetime import UTC, datetime, timedelta

import pytest

from leakguard.model import Server
from leakguard.register.scopes import entered
from leakguard.telling.snapshot import Snapshots, server_of, statement_text
from leakguard.testing import NOON
from tests.core.support import Bench, Driver, connect, hold_of, in_thread, library_code, wait_until, wire_of

START = datetime.fromtimestamp(NOON, UTC)


@pytest.fixture
def bench() -> Bench:
    """A tracker on a fake clock."""
    return Bench()


@pytest.fixture
def snapshots(bench: Bench) -> Snapshots:
    """Of that tracker."""
    return Snapshots(bench.tracker)


def test_a_hold_is_told_with_its_times(bench: Bench, snapshots: Snapshots) -> None:
    """Wall times from monotonic moments, and the duration up to now."""
    connection = bench.pool("shop").getconn()
    bench.clock.advance(2.0)
    bench.tracker.used(wire_of(bench.tracker, connection))
    bench.tracker.statement(wire_of(bench.tracker, connection), "SELECT 'secret' FROM orders")
    bench.clock.advance(3.0)
    hold = snapshots.hold(hold_of(bench.tracker, connection), "active", 1005.0)
    assert (hold.acquired_at, hold.held_for, hold.last_used_at) == (START, 5.0, START + timedelta(seconds=2))
    assert (hold.library, hold.operation, hold.pool, hold.state) == ("psycopg_pool", "getconn", "shop", "active")
    assert hold.statements == 1
    assert "secret" not in str(hold.last_statement)
    assert hold.site is not None
    assert (hold.site.file, hold.site.code) == (__file__, 'connection = bench.pool("shop").getconn()')
    assert hold.stack[0].function == "test_a_hold_is_told_with_its_times"


def test_a_direct_hold_has_no_pool(bench: Bench, snapshots: Snapshots) -> None:
    """And the driver's library, no last use, no statement."""
    kept = connect(bench.tracker)
    hold = snapshots.hold(hold_of(bench.tracker, kept), "idle", 1000.0)
    assert (hold.library, hold.pool, hold.last_used_at, hold.statements, hold.last_statement) == (
        "psycopg",
        None,
        None,
        0,
        None,
    )
    assert snapshots.pool(bench.tracker.direct) is None


def test_the_owner_has_the_test_and_labels_of_the_acquisition(bench: Bench, snapshots: Snapshots) -> None:
    """Whoever holds it now."""
    with entered(labels={"request": "r-17"}, test="test_a.py::test_b"):
        kept = bench.pool().getconn()
    in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, kept)), name="other")
    owner = snapshots.owner(hold_of(bench.tracker, kept))
    assert (owner.pid, owner.thread, owner.task, owner.test) == (os.getpid(), "other", None, "test_a.py::test_b")
    assert owner.labels == {"request": "r-17"}


def test_a_pool_is_told_with_its_counts(bench: Bench, snapshots: Snapshots) -> None:
    """Where it was created, how many server connections it has, how many it may."""
    pool = bench.pool("shop", size=7)
    kept = [pool.getconn(), pool.getconn()]
    bench.tracker.wire_closed(wire_of(bench.tracker, kept[1]))
    info = snapshots.pool(pool.record)
    assert info is not None
    assert (info.name, info.library, info.open, info.capacity) == ("shop", "psycopg_pool", 1, 7)
    assert info.created_at is not None
    assert info.created_at.file.endswith("support.py")


def test_the_server_is_asked_once(bench: Bench) -> None:
    """A closed connection cannot tell any more; a driver that raises leaves it unknown."""

    class Telling(Driver):
        asked = 0

        def server(self, connection: object) -> Server | None:
            self.asked += 1
            return Server(host="db", port=1, dbname="d", user="u", backend_pid=1, client_port=2)

    class Raising(Driver):
        def server(self, connection: object) -> Server | None:
            raise RuntimeError("the connection is closed")

    kept, other = bench.pool().getconn(), connect(bench.tracker)
    hold = hold_of(bench.tracker, kept)
    driver = wire_of(bench.tracker, kept).driver = Telling()
    assert server_of(hold) == server_of(hold)
    assert driver.asked == 1
    wire_of(bench.tracker, other).driver = Raising()
    assert server_of(hold_of(bench.tracker, other)) is None


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        pytest.param("SELECT 1", "SELECT ?", id="text"),
        pytest.param(b"SELECT 1", "SELECT ?", id="bytes"),
        pytest.param(object(), None, id="composed"),
        pytest.param(None, None, id="none"),
    ],
)
def test_a_statement_is_told_without_literals(statement: object, text: str | None) -> None:
    """A composed query may hold values, so it is not told at all."""
    told = statement_text(statement)
    assert (told is None) == (text is None)
    assert told is None or "SELECT" in told


def test_where_a_living_thread_is_now(bench: Bench, snapshots: Snapshots) -> None:
    """Its present stack, with the function it is in."""
    ready, go = threading.Event(), threading.Event()
    pool = bench.pool()

    def wait_for_the_bank() -> None:
        kept.append(pool.getconn())
        ready.set()
        go.wait(10)

    kept: list[object] = []
    thread = threading.Thread(target=wait_for_the_bank)
    thread.start()
    ready.wait(10)
    owner = hold_of(bench.tracker, kept[0]).owner
    now = snapshots.now(owner)
    assert now.owner == "running"
    assert "wait_for_the_bank" in [frame.function for frame in now.stack]
    go.set()
    thread.join(10)
    wait_until(lambda: owner.ended_at is not None)
    assert (snapshots.now(owner).owner, snapshots.now(owner).stack) == ("ended", ())


async def test_where_a_living_task_is_now(bench: Bench, snapshots: Snapshots) -> None:
    """The whole chain of coroutines that it awaits, innermost first."""
    pool = bench.pool()
    kept: list[object] = []
    go = asyncio.Event()

    async def inner() -> None:
        await go.wait()

    async def outer() -> None:
        kept.append(pool.getconn())
        await inner()

    task = asyncio.create_task(outer())
    await asyncio.sleep(0)
    owner = hold_of(bench.tracker, kept[0]).owner
    functions = [frame.function for frame in snapshots.now(owner).stack]
    assert functions[-2:] == ["inner", "outer"]
    go.set()
    await task
    assert snapshots.now(owner).owner == "ended"


def test_holds_are_grouped_by_bug_worst_first(bench: Bench, snapshots: Snapshots) -> None:
    """How many, the age of the oldest, and where."""
    pool = bench.pool(size=None)
    kept = [pool.getconn()]
    bench.clock.advance(10.0)

    def export() -> object:
        return pool.getconn()

    kept += [export() for _ in range(3)]  # type: ignore[misc]
    bench.clock.advance(1.0)
    groups = snapshots.groups(bench.tracker.holds(), 1011.0)
    assert [(group.count, group.oldest) for group in groups] == [(3, 1.0), (1, 11.0)]
    assert [group.site.function for group in groups if group.site] == [
        "export",
        "test_holds_are_grouped_by_bug_worst_first",
    ]


def test_a_hold_without_a_site_is_told_too(bench: Bench, snapshots: Snapshots) -> None:
    """Null, and a fingerprint all the same."""
    bench.tracker.recorder.mode = "off"
    kept = library_code("def get(pool):\n    return pool.getconn()")["get"](bench.pool())
    hold = snapshots.hold(hold_of(bench.tracker, kept), "idle", 1000.0)
    assert (hold.site, hold.stack) == (None, ())
    assert len(snapshots.fingerprint(hold_of(bench.tracker, kept))) == 12
