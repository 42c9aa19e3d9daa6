"""What a process tells of itself: the same as `holds()` tells, and where everybody is now."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from time import thread_time

import pytest

import leakguard
from leakguard.live.answer import read, snapshot_of
from leakguard.model import Server, Trace
from leakguard.reporters.jsonl import decode, encode
from leakguard.telling import columns
from leakguard.telling.census import Question
from leakguard.testing import FakeTime, fake_time
from tests.core.support import Pool, connect, hold_of, in_thread, wait_until, wire_of


@pytest.fixture
def time() -> Iterator[FakeTime]:
    """leakguard on a fake clock, installed."""
    with fake_time() as time:
        leakguard.install(on_leak=lambda _event: None)
        yield time


def test_holds_are_told_as_holds_tells_them(time: FakeTime) -> None:
    """Tables and columns lose nothing: every field of every hold comes back."""
    pool, other = Pool(time.runtime.tracker, "main"), Pool(time.runtime.tracker, "other")
    kept = [pool.getconn(), other.getconn("in_transaction")]
    with leakguard.label(request="r-1"):
        kept.append(pool.getconn("idle"))
    in_thread(lambda: kept.append(connect(time.runtime.tracker)))
    tracker = time.runtime.tracker
    time.clock.advance(2.5)
    tracker.used(wire_of(tracker, kept[1]))
    tracker.statement(wire_of(tracker, kept[1]), "SELECT * FROM t WHERE id = 42")
    server = Server(host="::1", port=5432, dbname="shop", user="app", backend_pid=-7, client_port=None)
    wire_of(tracker, kept[2]).server = server
    hold_of(tracker, kept[2]).trace = Trace(trace_id="a" * 32, span_id="b" * 16)
    time.clock.advance(1.25)
    snapshot = time.runtime.snapshot()
    assert [one.hold for one in snapshot.holds] == leakguard.holds()
    assert [one.hold.held_for for one in snapshot.holds] == [3.75] * 4
    assert snapshot.holds[1].hold.last_statement == "SELECT * FROM t WHERE id = ?"
    assert snapshot.holds[2].hold.server == server
    assert snapshot.holds[2].hold.trace is not None
    assert (snapshot.acquired, snapshot.released, snapshot.held, snapshot.leaked) == (4, 0, 4, 0)
    names = {time.runtime.snapshots.fingerprint(record) for record in tracker.holds()}
    assert {one.fingerprint for one in snapshot.holds} == names


def test_a_snapshot_survives_json(time: FakeTime) -> None:
    """What `dump --format json` and incident files have is read back as it was."""
    pool = Pool(time.runtime.tracker)
    kept = [pool.getconn(), connect(time.runtime.tracker)]
    time.advance(100.0)
    snapshot = time.runtime.snapshot(why=True)
    assert decode(encode(snapshot))[0] == snapshot
    assert snapshot.holds[0].suspected == ("overdue",)
    assert [(found.kind, found.count) for found in snapshot.leaks] == [("overdue", 1)]
    assert snapshot.settings["threshold"] == "60.0"
    del kept


def test_nothing_is_held(time: FakeTime) -> None:
    """The clean twin: an empty snapshot is one too."""
    pool = Pool(time.runtime.tracker)
    pool.putconn(pool.getconn())
    snapshot = time.runtime.snapshot(why=True)
    assert snapshot.holds == snapshot.leaks == ()
    assert (snapshot.acquired, snapshot.released, snapshot.held) == (1, 1, 0)
    assert [(told.name, told.open, told.held, told.capacity) for told in snapshot.pools] == [("main", 1, 0, 4)]


def test_pools_tell_what_is_short(time: FakeTime) -> None:
    """Checked out, lost, and the server's ends of what is idle."""
    tracker = time.runtime.tracker
    pool = Pool(tracker, size=3)
    first, second = pool.getconn(), pool.getconn()
    server = Server(host="h", port=1, dbname="d", user="u", backend_pid=3, client_port=4)
    wire_of(tracker, second).server = server
    pool.putconn(second)
    del second
    in_thread(lambda: pool.getconn() and None)  # dropped
    time.advance(1.0)
    (told,) = time.runtime.snapshot().pools
    assert (told.held, told.lost, told.capacity, told.idle) == (1, 1, 3, ())
    third = pool.getconn()
    wire_of(tracker, third).server = server
    pool.putconn(third)
    (told,) = time.runtime.snapshot().pools
    assert told.idle == (server,)
    assert told.created_at is not None
    assert told.created_at.file == __file__
    pool.putconn(first)


def test_many_are_cut_and_said_to_be(time: FakeTime) -> None:
    """The oldest are told; one can be asked for by its id."""
    pool = Pool(time.runtime.tracker, size=None)
    kept = [pool.getconn() for _ in range(5)]
    census = time.runtime._desk.census
    some = snapshot_of(census(Question(holds=2)))
    assert [one.hold.id for one in some.holds] == [hold.id for hold in leakguard.holds()[:2]]
    assert (some.left_out, some.held) == (3, 5)
    last = leakguard.holds()[-1]
    one = snapshot_of(census(Question(hold=last.id)))
    assert [found.hold.id for found in one.holds] == [last.id]
    assert snapshot_of(census(Question(hold=10**9))).holds == ()
    for connection in kept:
        pool.putconn(connection)


def test_verdicts_so_far(time: FakeTime) -> None:
    """What was proven, suspected and allowed of each hold."""
    pool = Pool(time.runtime.tracker)
    orphan = in_thread(pool.getconn)
    leader = pool.getconn()
    time.runtime.tracker.holds()[1].allowed = "the leader's lock"
    time.advance(61.0)
    told = {one.hold.id: one for one in time.runtime.snapshot().holds}
    first, second = (told[hold.id] for hold in leakguard.holds())
    assert (first.proven, first.now.owner, first.suspected) == (True, "ended", ())
    assert (second.proven, second.allowed, second.suspected) == (False, "the leader's lock", ())
    pool.putconn(orphan)
    pool.putconn(leader)


def test_holds_of_one_line_may_differ_in_everything_else(time: FakeTime) -> None:
    """What they have in common is told once, and no more than that."""
    tracker = time.runtime.tracker
    pools = [Pool(tracker, name, size=None) for name in ("one", "two")]
    kept = [pool.getconn() for pool in pools for _ in range(6)]
    _, active, allowed, proven, suspected, elsewhere = records = tracker.holds()[:6]
    active.active_since = 1.0
    allowed.allowed = "on purpose"
    proven.proven = True
    suspected.suspected = ("overdue",)
    server = Server(host="h", port=1, dbname="d", user="u", backend_pid=2, client_port=3)
    assert elsewhere.wire is not None
    elsewhere.wire.server = server
    told = time.runtime.snapshot().holds
    assert [one.hold for one in told] == leakguard.holds()
    assert [one.allowed for one in told[:6]] == [record.allowed for record in records]
    assert [one.proven for one in told[:6]] == [record.proven for record in records]
    assert [one.suspected for one in told[:6]] == [record.suspected for record in records]
    assert [one.hold.state for one in told[:2]] == ["idle", "active"]
    assert [one.hold.pool for one in told] == ["one"] * 6 + ["two"] * 6
    del kept


def test_where_a_waiting_thread_is(time: FakeTime) -> None:
    """Its stack of this moment, not that of the acquisition."""
    pool, go, there = Pool(time.runtime.tracker), threading.Event(), threading.Event()

    def work() -> None:
        connection = pool.getconn()
        wait_here()
        pool.putconn(connection)

    def wait_here() -> None:
        there.set()
        go.wait(10)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    there.wait(10)
    (one,) = time.runtime.snapshot().holds
    go.set()
    thread.join()
    functions = [frame.function for frame in one.now.stack if frame.app]
    assert functions[:2] == ["wait_here", "work"]
    assert one.hold.owner.thread == "worker"


async def test_where_tasks_are(time: FakeTime) -> None:
    """One that waits is where it waits; the one that runs is where its thread is."""
    pool, there = Pool(time.runtime.tracker), asyncio.Event()

    async def holder() -> None:
        connection = pool.getconn()
        there.set()
        await wait_there()
        pool.putconn(connection)

    async def wait_there() -> None:
        await asyncio.sleep(10)

    task = asyncio.create_task(holder(), name="holder")
    await there.wait()
    connection = pool.getconn()

    def look() -> list[list[str]]:
        return [[frame.function for frame in one.now.stack if frame.app] for one in time.runtime.snapshot().holds]

    waiting, running = look()
    assert waiting == ["wait_there", "holder"]
    assert running == ["look", "test_where_tasks_are"]
    pool.putconn(connection)
    task.cancel()


def test_different_stacks_of_one_line_are_kept_apart(time: FakeTime) -> None:
    """Also those that look alike to their bytecode: two callers with the same instructions."""
    pool = Pool(time.runtime.tracker, size=None)
    kept = []

    def acquire() -> None:
        kept.append(pool.getconn())

    def one() -> None:
        acquire()

    def two() -> None:
        acquire()

    for function in (one, two) * 10:  # more than RECENT_LIMIT of each
        function()
    callers = [found.hold.stack[1].function for found in time.runtime.snapshot().holds]
    assert callers == ["one", "two"] * 10
    assert [found.hold.stack for found in time.runtime.snapshot().holds] == [hold.stack for hold in leakguard.holds()]


def test_statements_are_redacted_within_a_budget(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it is over, a statement is only said to be there; its text never leaves as it is."""
    tracker = time.runtime.tracker
    pool = Pool(tracker, size=None)
    kept = [pool.getconn() for _ in range(3)]
    for number, connection in enumerate(kept):
        tracker.statement(wire_of(tracker, connection), f"SELECT 'secret {number}'")
    monkeypatch.setattr(columns, "REDACTING", -1.0)
    told = [one.hold.last_statement for one in time.runtime.snapshot().holds]
    assert told == [columns.NOT_SHOWN] * 3


def test_what_is_no_text_is_not_told(time: FakeTime) -> None:
    """A composed query may hold values, and need not be hashable."""
    tracker = time.runtime.tracker
    pool = Pool(tracker)
    connection = pool.getconn()
    tracker.statement(wire_of(tracker, connection), ["a", "list"])
    (one,) = time.runtime.snapshot().holds
    assert (one.hold.last_statement, one.hold.statements) == (None, 1)
    pool.putconn(connection)


def test_why_is_answered_for_the_oldest_of_each_bug(time: FakeTime) -> None:
    """The chain of references, a line a step; the others of the same line are not searched for."""
    pool = Pool(time.runtime.tracker, size=None)
    cache = [pool.getconn() for _ in range(2)]
    plain = time.runtime.snapshot()
    assert [one.kept_by for one in plain.holds] == [None, None]
    first, second = time.runtime.snapshot(why=True).holds
    assert first.kept_by is not None
    assert "local `cache`" in first.kept_by[-1]
    assert second.kept_by is None
    assert len(cache) == 2


def test_a_search_that_has_no_time_left_says_so(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded, and honest about it."""
    from leakguard.telling import census

    monkeypatch.setattr(census, "SEARCHES_BUDGET", 0.0)
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    (one,) = time.runtime.snapshot(why=True).holds
    assert one.kept_by == ("(not searched: out of time)",)
    pool.putconn(kept)


def test_a_hold_that_ends_meanwhile_is_no_error(time: FakeTime) -> None:
    """A hold may end, and its connection be closed, between the look at the register and the writing."""
    tracker = time.runtime.tracker
    pool = Pool(tracker)
    kept = [pool.getconn(), pool.getconn()]
    records = tracker.holds()
    for connection in kept:
        pool.putconn(connection)
    del kept[:], connection
    now = tracker.clock.monotonic()
    told = columns.columns(records, now, time.runtime.snapshots, tracker.recorder.rules, {})
    assert json.dumps(told)


def test_times_are_those_of_the_snapshot(time: FakeTime) -> None:
    """`acquired_at` is the snapshot's time less `held_for`, on any clock."""
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    time.clock.advance(12.0)
    snapshot = time.runtime.snapshot()
    (one,) = snapshot.holds
    assert one.hold.acquired_at == snapshot.time - timedelta(seconds=12)
    pool.putconn(kept)


def test_while_others_acquire_and_release(time: FakeTime) -> None:
    """No error, and whoever is held throughout is told each time."""
    pool = Pool(time.runtime.tracker, size=None)
    steady = pool.getconn()
    over = threading.Event()

    def churn() -> None:
        while not over.is_set():
            pool.putconn(pool.getconn())

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        ids = [hold.id for hold in leakguard.holds()[:1]]
        for _ in range(50):
            assert [one.hold.id for one in time.runtime.snapshot().holds[:1]] == ids
    finally:
        over.set()
        for thread in threads:
            thread.join()
    wait_until(lambda: len(leakguard.holds()) == 1)
    pool.putconn(steady)


@pytest.mark.slow
def test_ten_thousand_holds_are_told_quickly(time: FakeTime) -> None:
    """In a small part of the time that objects for each would take."""
    pool = Pool(time.runtime.tracker, size=None)
    kept = [pool.getconn() for _ in range(10_000)]
    time.runtime._desk.answer(b'{"ask": "snapshot"}')
    begun = thread_time()
    answer = time.runtime._desk.answer(b'{"ask": "snapshot"}')
    assert thread_time() - begun < 0.15  # 17 ms on a machine that does nothing else
    assert len(answer) < 1_200_000
    assert len(read(answer).holds) == 10_000
    del kept
