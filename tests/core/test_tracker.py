"""The tracker: what acquire, use, release and collection do to the register, and that its accounts always agree."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from leakguard.judging.judge import FIRST_LOOK
from leakguard.register.records import End, Watch
from leakguard.register.signals import Changed, Returned
from leakguard.register.tracker import LENDERS_LIMIT, PendingLeaks, Tracker
from leakguard.settings import Settings
from tests.core.support import DRIVER, Bench, Connection, Pool, close, connect, hold_of, in_thread, wire_of


def test_a_hold_lasts_from_acquire_to_release() -> None:
    """It is in the pool's and in the owner's books, and then in neither."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    hold = hold_of(bench.tracker, connection)
    assert (hold.acquired_at, hold.operation, hold.library) == (1000.0, "getconn", "psycopg_pool")
    assert bench.tracker.holds() == [hold]
    assert list(hold.owner.open.values()) == [hold]
    pool.putconn(connection)
    assert hold.ended is End.RELEASED
    assert bench.tracker.holds() == []
    assert hold.owner.open == {}
    assert wire_of(bench.tracker, connection).hold is None
    assert bench.counts() == (1, 1, 0, 0)


def test_an_unwatched_pool_is_passed_through() -> None:
    """`begin` says that nobody watches, and nothing is recorded."""
    bench = Bench()
    pool = bench.pool()
    pool.record.watch = None
    kept = pool.getconn()
    assert bench.tracker.holds() == []
    assert pool.record.pending() == 0
    pool.putconn(kept)


def test_a_double_release_counts_once() -> None:
    """`released` is idempotent, and the second one takes nothing from the next holder."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    first = hold_of(bench.tracker, connection)
    pool.putconn(connection)
    assert pool.getconn() is connection
    bench.tracker.released(first)
    assert hold_of(bench.tracker, connection).ended is None
    assert bench.counts() == (2, 1, 1, 0)


def test_a_release_after_the_collection_changes_nothing() -> None:
    """Whatever ended first is how it ended."""
    bench = Bench()
    connection = bench.pool().getconn()
    hold = hold_of(bench.tracker, connection)
    bench.tracker.collected(hold, healed=False)
    bench.tracker.released(hold)
    bench.tracker.forget(hold)
    bench.tracker.collected(hold, healed=True)
    assert hold.ended is End.COLLECTED
    assert bench.tracker.signals.qsize() == 1
    bench.drain()
    assert bench.counts() == (1, 0, 0, 1)


def test_a_refused_release_is_restored() -> None:
    """The pool refused the connection: it is held as before, and its later release counts once."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    hold = hold_of(bench.tracker, connection)
    bench.tracker.released(hold)
    bench.tracker.restore(hold)
    assert hold_of(bench.tracker, connection) is hold
    assert bench.tracker.holds() == [hold]
    assert hold.serial in hold.owner.open
    assert bench.counts() == (1, 0, 1, 0)
    pool.putconn(connection)
    assert bench.counts() == (1, 1, 0, 0)


def test_a_restored_hold_is_found_again() -> None:
    """It goes back into the schedule like a young one."""
    bench = Bench(threshold=10.0)
    connection = bench.pool().getconn()
    bench.advance(5.0)
    hold = hold_of(bench.tracker, connection)
    bench.tracker.released(hold)
    bench.tracker.restore(hold)
    assert bench.kinds(5.0) == ["overdue"]


def test_only_a_suspected_hold_says_that_it_returned() -> None:
    """The watchdog need not hear of ordinary releases."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    pool.putconn(connection)
    assert bench.tracker.signals.empty()
    connection = pool.getconn()
    hold = hold_of(bench.tracker, connection)
    hold.suspected = ("overdue",)
    pool.putconn(connection)
    assert bench.tracker.signals.get_nowait() == Returned(hold, 1000.0)


def test_stacked_holds_are_one_hold_to_the_reader() -> None:
    """The outer pool's hold covers the inner one's, and uncovers it as the wire's hold when it ends."""
    bench = Bench()
    inner, outer = bench.pool("inner"), bench.pool("outer", library="sqlalchemy")
    connection = inner.getconn()
    wire, below = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    above = bench.tracker.acquired(outer.record, bench.watch, wire, wire.ref, "connect", 1)
    assert (wire.hold, above.beneath, below.covered, above.covered) == (above, below, True, False)
    assert bench.tracker.holds() == [above]
    bench.tracker.released(above)
    assert wire.hold is below
    assert bench.tracker.holds() == []
    inner.putconn(connection)
    assert wire.hold is None
    assert bench.counts() == (2, 2, 0, 0)


def test_the_inner_hold_may_end_first() -> None:
    """Returned to the inner pool while the outer one has it: the outer hold goes on."""
    bench = Bench()
    inner, outer = bench.pool("inner"), bench.pool("outer")
    connection = inner.getconn()
    wire = wire_of(bench.tracker, connection)
    above = bench.tracker.acquired(outer.record, bench.watch, wire, wire.ref, "connect", 1)
    inner.putconn(connection)
    assert wire.hold is above
    assert bench.counts() == (2, 1, 1, 0)


def test_the_same_pool_handing_out_again_ends_the_earlier_hold() -> None:
    """The release was seen by no hook; nothing may be counted as held twice."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    first = hold_of(bench.tracker, connection)
    wire = wire_of(bench.tracker, connection)
    second = bench.tracker.acquired(pool.record, bench.watch, wire, wire.ref, "getconn", 1)
    assert first.ended is End.RELEASED
    assert second.beneath is None
    assert bench.counts() == (2, 1, 1, 0)


def test_a_direct_hold_turns_out_to_be_the_pools_own() -> None:
    """Given to a pool later: as if it had never been acquired."""
    bench = Bench()
    pool = bench.pool()
    connection = connect(bench.tracker)
    assert bench.counts() == (1, 0, 1, 0)
    bench.tracker.give_to_pool(wire_of(bench.tracker, connection), pool.record)
    assert wire_of(bench.tracker, connection).hold is None
    assert bench.counts() == (0, 0, 0, 0)
    assert list(pool.record.wires) == [id(connection)]


def test_a_checkout_over_a_direct_hold_forgets_it() -> None:
    """The pool's first checkout shows that the connection was never the application's own."""
    bench = Bench()
    pool = bench.pool()
    connection = connect(bench.tracker)
    wire, direct = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    bench.tracker.acquired(pool.record, bench.watch, wire, wire.ref, "getconn", 1)
    assert direct.ended is End.FORGOTTEN
    assert bench.counts() == (1, 0, 1, 0)


def test_a_wire_moves_from_pool_to_pool() -> None:
    """Each connection counts as one server connection, of the pool that has it now."""
    bench = Bench()
    one, other = bench.pool("one"), bench.pool("other")
    connection = one.getconn()
    bench.tracker.give_to_pool(wire_of(bench.tracker, connection), other.record)
    assert (len(one.record.wires), len(other.record.wires)) == (0, 1)
    assert hold_of(bench.tracker, connection).covered


def test_a_closed_wire_leaves_its_pool_and_keeps_its_first_time() -> None:
    """A second close tells nothing new."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    wire = wire_of(bench.tracker, connection)
    close(bench.tracker, connection)
    bench.clock.advance(3.0)
    close(bench.tracker, connection)
    assert wire.closed_at == 1000.0
    assert pool.record.wires == {}
    assert bench.tracker.signals.get_nowait() == Changed(hold_of(bench.tracker, connection))
    assert hold_of(bench.tracker, connection).ended is None


def test_a_detached_connection_ends_with_its_close() -> None:
    """It is no checkout any more: nobody waits for its return."""
    bench = Bench()
    connection = bench.pool().getconn()
    hold = hold_of(bench.tracker, connection)
    hold.detached = True
    close(bench.tracker, connection)
    assert hold.ended is End.RELEASED


def test_an_object_with_a_recycled_id_is_not_the_old_one() -> None:
    """Identity is never the id alone: a wire or pool whose object has gone is unknown."""
    bench = Bench()
    wire, pool = bench.tracker.add_wire(Connection(), DRIVER), bench.pool()
    newcomer, newpool = Connection(), object()
    bench.tracker.wires[id(newcomer)] = wire
    bench.tracker.pools[id(newpool)] = pool.record
    assert bench.tracker.wire_of(newcomer) is None
    assert bench.tracker.pool_of(newpool) is None
    assert bench.tracker.pool_of(pool) is pool.record


def test_dropping_an_old_wire_spares_the_new_one_of_the_same_id() -> None:
    """The collector's message may come after the id has been taken over. (What has slots is known by its id alone.)"""

    class Slotted:
        __slots__ = ("__weakref__",)

    bench = Bench()
    old = bench.tracker.add_wire(Slotted(), DRIVER)
    connection = Slotted()
    new = bench.tracker.add_wire(connection, DRIVER)
    old.key = new.key
    bench.tracker.drop_wire(old)
    assert bench.tracker.wire_of(connection) is new
    bench.tracker.drop_wire(new)
    assert bench.tracker.wire_of(connection) is None


def test_a_connection_without_weak_references_is_known_by_its_pool_alone() -> None:
    """sqlite3 and some C drivers cannot be referred to weakly."""

    class Slotted:
        __slots__ = ()

    bench = Bench()
    pool = bench.pool()
    wire = bench.tracker.add_wire(Slotted(), DRIVER, pool.record)
    assert (wire.ref, wire.connection(), wire.pool) == (None, None, pool.record)
    assert bench.tracker.wires == {}


def test_nothing_is_kept_alive() -> None:
    """Neither a connection nor a pool nor a thread lives on in the register."""
    bench = Bench()
    pool = Pool(bench.tracker)
    held = [pool.getconn()]
    seen = [weakref.ref(pool), weakref.ref(held[0])]
    bench.advance(1.0)
    held.clear()
    del pool
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_a_use_is_remembered_with_its_time_and_its_statement() -> None:
    """The latest statement, how many, and when."""
    bench = Bench()
    connection = bench.pool().getconn()
    wire, hold = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    assert (hold.last_used, hold.statements, hold.last_statement) == (None, 0, None)
    bench.clock.advance(2.0)
    bench.tracker.statement(wire, "SELECT 1")
    bench.tracker.statement(wire, "SELECT 2")
    bench.tracker.used(wire)
    assert (hold.last_used, hold.statements, hold.last_statement) == (1002.0, 2, "SELECT 2")


def test_a_use_that_nobody_holds_is_nothing() -> None:
    """A pool's own check of an idle connection."""
    bench = Bench()
    pool = bench.pool()
    connection = pool.getconn()
    pool.putconn(connection)
    bench.tracker.used(wire_of(bench.tracker, connection))
    bench.tracker.statement(wire_of(bench.tracker, connection), "SELECT 1")
    assert bench.tracker.holds() == []


def test_whoever_uses_it_becomes_its_owner() -> None:
    """The books of both owners are changed, and the schedule is told; a use by its owner tells nothing."""
    bench = Bench()
    connection = bench.pool().getconn()
    wire, hold = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    first = hold.owner
    bench.clock.advance(FIRST_LOOK)
    bench.beat()
    bench.tracker.used(wire)
    assert bench.tracker.signals.empty()
    second = in_thread(lambda: bench.tracker.used(wire) or bench.tracker.owners.current())
    assert hold.owner is second
    assert hold.touched
    assert (first.open, second.open) == ({}, {hold.serial: hold})
    assert bench.tracker.signals.get_nowait() == Changed(hold)


def test_a_young_hold_changes_hands_without_a_word() -> None:
    """It is scheduled at its first look, whoever owns it then: to wake the watchdog for each would cost a lot."""
    bench = Bench()
    connection = bench.pool().getconn()
    owner = in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, connection)) or bench.tracker.owners.current())
    assert hold_of(bench.tracker, connection).owner is owner
    assert bench.tracker.signals.empty()


def test_the_pools_own_cleaning_up_is_nobodys_use() -> None:
    """What the collector found is rolled back in whatever thread it came by: whoever acquired it stays its owner."""
    bench = Bench()
    connection = bench.pool().getconn()
    wire, hold = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    hold.handle = weakref.ref(Connection())  # a handle that is dead, over a connection that lives on in its pool
    in_thread(lambda: bench.tracker.used(wire))
    assert hold.owner is bench.tracker.owners.current()
    assert bench.tracker.signals.empty()


def test_lenders_are_remembered_while_they_live() -> None:
    """The living ones in order, none twice, and not without end."""
    bench = Bench()
    connection = bench.pool().getconn()
    wire, hold = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    me = hold.owner
    for _ in range(LENDERS_LIMIT + 5):
        in_thread(lambda: bench.tracker.used(wire))
    assert hold.lenders == (me,)
    bench.tracker.used(wire)
    assert (hold.owner, hold.lenders) == (me, ())


def test_a_hold_that_ended_while_it_was_adopted_stays_ended() -> None:
    """The release in another thread came first: nobody's books have it."""
    bench = Bench()
    connection = bench.pool().getconn()
    wire, hold = wire_of(bench.tracker, connection), hold_of(bench.tracker, connection)
    bench.tracker.released(hold)
    wire.hold = hold  # what the other thread still saw
    taker = in_thread(lambda: bench.tracker.used(wire) or bench.tracker.owners.current())
    assert taker.open == {}
    assert bench.tracker.signals.empty()


def test_what_is_pending_is_raised_by_the_next_acquire_once() -> None:
    """``on_leak="raise"``: the leaks go out with one exception, before the pool is asked."""
    bench = Bench()
    pool = bench.pool()
    bench.watch.pending = ["leak"]
    with pytest.raises(PendingLeaks) as raised:
        bench.tracker.begin(pool.record)
    assert raised.value.args[0] == ["leak"]
    assert pool.record.pending() == 0
    assert bench.tracker.begin(pool.record) is bench.watch
    assert pool.record.pending() == 1


def test_holds_come_oldest_first_from_all_pools() -> None:
    """Young ones, aged ones and direct connections in one order."""
    bench = Bench()
    one, other = bench.pool("one"), bench.pool("other")
    kept = [one.getconn(), connect(bench.tracker), other.getconn()]
    bench.advance(1.0)
    kept.append(one.getconn())
    assert [hold.serial for hold in bench.tracker.holds()] == [
        hold_of(bench.tracker, connection).serial for connection in kept
    ]
    assert bench.tracker.last_serial() >= hold_of(bench.tracker, kept[-1]).serial


def test_the_last_serial_divides_before_from_after() -> None:
    """Whatever is acquired later has a higher number, and asking for it uses none up."""
    bench = Bench()
    pool = bench.pool(size=None)
    kept = [pool.getconn()]
    line = bench.tracker.last_serial()
    assert line == bench.tracker.last_serial() == hold_of(bench.tracker, kept[0]).serial
    kept.append(pool.getconn())
    assert hold_of(bench.tracker, kept[1]).serial > line


def test_a_hold_between_the_books_is_seen_once() -> None:
    """While the watchdog moves a hold from young to aged, it is in both; `holds()` names it once."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    hold = hold_of(bench.tracker, kept)
    pool.record.aged[hold.serial] = hold
    assert bench.tracker.holds() == [hold]


def test_a_target_beats_the_processs_guard() -> None:
    """A pool given to `watch()` is judged by that guard alone, the others by the process's."""
    bench = Bench()
    one, other = bench.pool("one"), bench.pool("other")
    special = Watch(Settings())
    bench.tracker.targets.append((lambda pool: pool is one, special))
    bench.tracker.assign()
    assert (one.record.watch, other.record.watch, bench.tracker.direct.watch) == (special, bench.watch, bench.watch)
    bench.tracker.targets.clear()
    bench.tracker.assign()
    assert one.record.watch is bench.watch


def test_what_a_parting_guard_watched_is_forgotten() -> None:
    """Only its own holds; giving them back later changes no count."""
    bench = Bench()
    pool, special = bench.pool(), Watch(Settings())
    other = bench.pool("other")
    other.record.watch = special
    mine, theirs = pool.getconn(), other.getconn()
    bench.tracker.forget_watch(special)
    assert bench.tracker.holds() == [hold_of(bench.tracker, mine)]
    other.putconn(theirs)
    assert bench.counts() == (1, 0, 1, 0)


def test_a_forked_child_forgets_its_parents_holds() -> None:
    """Pools live on under new records; what is given back there changes no count."""
    bench = Bench()
    pool = bench.pool()
    kept, direct = pool.getconn(), connect(bench.tracker)
    old = bench.tracker.direct
    bench.watch.reset()
    bench.tracker.forget_parent()
    assert bench.tracker.holds() == []
    assert bench.counts() == (0, 0, 0, 0)
    assert bench.tracker.direct is not old
    record = bench.tracker.pool_of(pool)
    assert record is not None
    assert record is not pool.record
    assert (record.name, record.library, record.created) == ("main", "psycopg_pool", pool.record.created)
    assert record.baseline is None
    del kept, direct
    gc.collect()
    assert bench.drain() == []


def test_the_watchdog_is_woken_by_pools_and_wires_only() -> None:
    """It starts lazily, and not on the hot path."""
    tracker = Tracker(Bench().clock)
    woken: list[None] = []
    tracker.wake = lambda: woken.append(None)
    tracker.process_watch = Watch(Settings())
    pool = Pool(tracker)
    assert len(woken) == 1
    connection = pool.getconn()
    assert len(woken) == 2
    pool.putconn(connection)
    pool.putconn(pool.getconn())
    assert len(woken) == 2


class Accounts(RuleBasedStateMachine):
    """Random ways to begin, use and end holds against a model of three plain numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(threshold=5.0)
        self.inner, self.outer = self.bench.pool("inner", size=None), self.bench.pool("outer", size=None)
        self.held: list[Connection] = []
        self.acquired = self.released = self.leaked = 0

    @rule()
    def acquire(self) -> None:
        self.held.append(self.inner.getconn())
        self.acquired += 1

    @rule()
    def open_directly(self) -> None:
        self.held.append(connect(self.bench.tracker))
        self.acquired += 1

    def _one(self, data: st.DataObject) -> Connection:
        return self.held[data.draw(st.integers(0, len(self.held) - 1))]  # hypothesis keeps what it draws alive

    @precondition(lambda self: self.held)
    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, twice: bool) -> None:
        connection = self._one(data)
        self.held.remove(connection)
        hold = hold_of(self.bench.tracker, connection)
        for _ in range(1 + twice):
            self.bench.tracker.released(hold)
        self.released += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def refused_release(self, data: st.DataObject) -> None:
        hold = hold_of(self.bench.tracker, self._one(data))
        self.bench.tracker.released(hold)
        self.bench.tracker.restore(hold)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.held.remove(self._one(data))
        self.leaked += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        connection = self._one(data)
        hold = hold_of(self.bench.tracker, connection)
        close(self.bench.tracker, connection)
        if not hold.is_checkout:
            self.held.remove(connection)
            self.released += 1

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        hold_of(self.bench.tracker, self._one(data)).detached = True

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def use_elsewhere(self, data: st.DataObject) -> None:
        wire = wire_of(self.bench.tracker, self._one(data))
        in_thread(lambda: self.bench.tracker.used(wire))

    @rule(seconds=st.sampled_from([0.0, 0.25, 3.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.bench.advance(seconds)

    @invariant()
    def the_accounts_agree(self) -> None:
        self.bench.beat()
        acquired, released, held, leaked = self.bench.counts()
        assert (acquired, released, held, leaked) == (self.acquired, self.released, len(self.held), self.leaked)
        assert acquired == released + held + leaked

    @invariant()
    def the_books_agree(self) -> None:
        holds = self.bench.tracker.holds()
        assert {id(hold_of(self.bench.tracker, connection)) for connection in self.held} == {id(hold) for hold in holds}
        assert all(hold.owner.open.get(hold.serial) is hold for hold in holds)


Accounts.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAccounts = pytest.mark.slow(Accounts.TestCase)
