"""The judge: what is found when, and that it costs no more than what is due."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest

from leakguard.judging.judge import CROWD, FIRST_LOOK, Finding, Judge, limits_of, state_of
from leakguard.model import State
from leakguard.register.records import Account, HoldRecord, Watch, count_of
from leakguard.register.scopes import LongHold, entered
from leakguard.register.signals import Collected, Nested, Returned
from leakguard.settings import Settings
from tests.core.support import (
    Bench,
    Connection,
    Driver,
    Pool,
    Probe,
    close,
    connect,
    hold_of,
    in_thread,
    kinds,
    library_code,
    wire_of,
)


def findings(outcomes: list[object]) -> list[Finding]:
    """The findings among the outcomes."""
    return [outcome for outcome in outcomes if isinstance(outcome, Finding)]


# ---------------------------------------------------------------------------------------------------- the schedule


def test_a_young_hold_is_taken_into_the_schedule_at_the_first_look() -> None:
    """Most holds are over within a quarter of a second, and cost the watchdog nothing."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    bench.clock.advance(FIRST_LOOK / 2)
    bench.beat()
    assert (len(pool.record.open), len(pool.record.aged)) == (1, 0)
    bench.clock.advance(FIRST_LOOK / 2)
    bench.beat()
    assert (len(pool.record.open), len(pool.record.aged)) == (0, 1)
    assert kept is not None


def test_the_first_look_comes_no_later_than_the_smallest_limit() -> None:
    """With a threshold of 50 ms, a hold is overdue after 50 ms."""
    bench = Bench(threshold=0.05)
    kept = bench.pool().getconn()
    bench.clock.advance(0.05)
    assert kinds(bench.beat()) == ["overdue"]
    assert kept is not None


def test_an_overdue_checkout_is_found_at_the_very_moment_and_once() -> None:
    """Not a tick earlier, and at most one suspicion of each kind."""
    bench = Bench(threshold=60.0)
    kept = bench.pool().getconn()
    assert bench.kinds(59.75) == []
    assert bench.kinds(0.25) == ["overdue"]
    assert bench.kinds(600.0) == []
    assert kept is not None


def test_a_checkout_that_came_back_in_time_is_not_overdue() -> None:
    """The clean twin: released a moment before its threshold, and never mentioned."""
    bench = Bench(threshold=60.0)
    pool = bench.pool()
    connection = pool.getconn()
    bench.advance(59.75)
    pool.putconn(connection)
    assert bench.advance(600.0) == []


def test_a_suspected_checkout_that_comes_back_has_returned() -> None:
    """A report that turned out harmless is taken back, once, at the time of the release."""
    bench = Bench(threshold=1.0)
    pool = bench.pool()
    connection = pool.getconn()
    hold = hold_of(bench.tracker, connection)
    bench.advance(3.0)
    pool.putconn(connection)
    assert bench.beat() == [Returned(hold, 1003.0)]
    assert bench.advance(10.0) == []


def test_a_direct_connection_is_never_overdue() -> None:
    """Raw connections are not judged by age alone."""
    bench = Bench(threshold=1.0)
    kept = connect(bench.tracker)
    assert bench.kinds(3600.0) == []
    assert kept is not None


def test_a_long_jump_of_the_clock_finds_what_became_due_in_it() -> None:
    """A suspended machine wakes up: what is overdue by then is found at the next look."""
    bench = Bench(threshold=60.0)
    kept = bench.pool().getconn()
    bench.clock.advance(7200.0)
    assert kinds(bench.beat()) == ["overdue"]
    assert kept is not None


def test_without_any_limit_nothing_is_ever_due() -> None:
    """Both thresholds off: no schedule, no finding."""
    bench = Bench(threshold=None, idle_in_transaction=None)
    kept = bench.pool().getconn("in_transaction")
    assert bench.kinds(3600.0) == []
    assert bench.judge._due == []
    assert kept is not None


def test_the_watchdog_may_sleep_to_the_next_deadline() -> None:
    """It waits no longer than to what is due, and half a second when nothing old is held."""
    bench = Bench(threshold=1.0, idle_in_transaction=None)
    pool = bench.pool()
    bench.beat()
    assert bench.judge.wait_for(1000.0) == 0.5
    connection = pool.getconn()
    bench.advance(0.25)
    assert bench.judge.wait_for(1000.25) == 0.25
    assert bench.judge.wait_for(1000.9) == pytest.approx(0.1)
    assert bench.judge.wait_for(1002.0) == 0.0
    pool.putconn(connection)
    bench.advance(2.0)
    assert bench.judge.wait_for(1003.0) == 0.5


class Counting(Judge):
    """A judge that counts what it looks at."""

    looked = 0

    def _judge(self, hold: HoldRecord, now: float, *, reschedule: bool = True) -> list[object]:  # type: ignore[override]
        self.looked += 1
        return super()._judge(hold, now, reschedule=reschedule)  # type: ignore[return-value]


@pytest.mark.slow
def test_a_sweep_touches_only_what_is_due() -> None:
    """With 100,000 holds none of which is due, the second sweep looks at none of them."""
    bench = Bench(threshold=60.0, idle_in_transaction=None)
    bench.judge = judge = Counting(bench.tracker)
    pool = bench.pool(size=None)
    kept = [pool.getconn() for _ in range(100_000)]
    bench.clock.advance(1.0)
    bench.beat()
    assert (len(pool.record.open), len(pool.record.aged)) == (0, 100_000)

    class Untouched(dict[int, HoldRecord]):
        """Falls over when it is walked through."""

        def _refuse(self, *_: object) -> None:
            raise AssertionError("the sweep looked at all the holds")

        __iter__ = keys = values = items = copy = __getitem__ = get = pop = _refuse  # type: ignore[assignment]

    heap = list(judge._due)
    pool.record.aged = Untouched(pool.record.aged)
    bench.clock.advance(1.0)
    assert bench.beat() == []
    assert judge.looked == 0
    assert judge._due == heap
    assert len(kept) == 100_000


@pytest.mark.parametrize("spoilt", ["covered", "proven"])
def test_a_hold_that_can_no_longer_be_found_is_not_looked_at_again_and_again(spoilt: str) -> None:
    """A moment that has passed without effect does not keep the watchdog spinning."""
    bench = Bench(threshold=1.0, idle_in_transaction=None)
    bench.judge = judge = Counting(bench.tracker)
    kept = bench.pool().getconn()
    setattr(hold_of(bench.tracker, kept), spoilt, True)
    bench.advance(100.0)
    assert judge.looked < 10


def test_a_connection_that_changes_hands_all_day_is_scheduled_once() -> None:
    """One entry a hold: the cost does not grow with how often another task has used it."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    bench.judge = judge = Counting(bench.tracker)
    kept = bench.pool().getconn()
    wire = wire_of(bench.tracker, kept)
    for _ in range(100):
        in_thread(lambda: bench.tracker.used(wire))
        bench.tracker.used(wire)
        bench.advance(0.25)
    assert len(judge._due) <= 2
    judge.looked = 0
    bench.advance(100.0)
    assert judge.looked <= 22


# ------------------------------------------------------------------------------------------- idle in transaction


@pytest.mark.parametrize("state", ["in_transaction", "in_error"])
def test_idle_in_transaction_is_measured_from_the_last_use(state: State) -> None:
    """A transaction that began long ago but ran a statement lately is at work, not idle."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker, state)
    for _ in range(5):
        assert bench.kinds(9.0) == []
        bench.tracker.used(wire_of(bench.tracker, kept))
    assert bench.kinds(9.75) == []
    assert bench.kinds(0.25) == ["idle_in_transaction"]
    assert bench.kinds(100.0) == []


def test_a_connection_outside_a_transaction_is_never_idle_in_one() -> None:
    """The clean twin: as long, but idle."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker)
    assert bench.kinds(1000.0) == []
    assert kept is not None


def test_a_transaction_that_begins_late_is_found_too() -> None:
    """The schedule looks again after a look that found no transaction."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker)
    assert bench.kinds(25.0) == []
    kept.state = "in_transaction"
    bench.tracker.used(wire_of(bench.tracker, kept))
    assert bench.kinds(9.75) == []
    assert bench.kinds(10.0) == ["idle_in_transaction"]


def test_a_running_statement_is_not_idle() -> None:
    """While a statement runs the state is active, however long it takes."""
    bench = Bench(threshold=5.0, idle_in_transaction=1.0)
    kept = bench.pool().getconn("in_transaction")
    hold_of(bench.tracker, kept).active_since = 1000.0
    (found,) = findings(bench.advance(60.0))
    assert found.kind == "overdue"
    assert state_of(hold_of(bench.tracker, kept)) == "active"


def test_a_statement_that_runs_during_the_look_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last use is read again after the state was asked: a use in between makes the transaction young."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker, "in_transaction")

    class Busy(Driver):
        def state(self, connection: object) -> State:
            bench.tracker.used(wire_of(bench.tracker, kept))
            return super().state(connection)

    wire_of(bench.tracker, kept).driver = Busy()
    assert bench.kinds(10.0) == []


def test_a_driver_that_cannot_tell_its_state_stops_nobody_else() -> None:
    """A state that raises is unknown, and the findings of the same sweep are told all the same."""

    class Broken(Driver):
        def state(self, connection: object) -> State:
            raise RuntimeError("the connection is already closed")

    bench = Bench(threshold=10.0, idle_in_transaction=10.0)
    pool = bench.pool()
    broken, fine = pool.getconn("in_transaction"), bench.pool("other").getconn("in_transaction")
    wire_of(bench.tracker, broken).driver = Broken()
    found = findings(bench.advance(10.0))
    assert sorted(one.kind for one in found) == ["idle_in_transaction", "overdue", "overdue"]
    assert state_of(hold_of(bench.tracker, broken)) == "unknown"
    assert state_of(hold_of(bench.tracker, fine)) == "in_transaction"


# ------------------------------------------------------------------------------------------------------- orphans


def test_an_orphan_is_found_after_the_grace() -> None:
    """Its thread has ended and nobody has used it for the grace: proof, once."""
    bench = Bench(owner_grace=5.0)
    pool = bench.pool()
    kept = in_thread(pool.getconn)
    assert bench.kinds(4.75) == []
    (found,) = findings(bench.advance(0.5))
    assert (found.kind, found.certain) == ("orphaned", True)
    assert 'thread "worker"' in found.reason
    assert bench.kinds(30.0) == []
    assert kept is not None


def test_a_thread_that_gives_back_leaves_no_orphan() -> None:
    """The clean twin."""
    bench = Bench(owner_grace=5.0)
    pool = bench.pool()
    in_thread(lambda: pool.putconn(pool.getconn()))
    assert bench.kinds(30.0) == []


def test_the_grace_begins_anew_with_every_use_after_the_end() -> None:
    """Both have to be over: the grace since the owner's end and the grace since the last use."""
    bench = Bench(owner_grace=5.0, threshold=None)
    pool = bench.pool()
    kept = in_thread(pool.getconn)
    hold = hold_of(bench.tracker, kept)
    bench.advance(4.0)
    hold.last_used = bench.clock.monotonic()  # used, but by nobody who becomes its owner
    assert bench.kinds(4.75) == []
    assert bench.kinds(0.5) == ["orphaned"]


def test_a_living_thread_that_uses_an_orphan_becomes_its_owner() -> None:
    """A connection that is handed over is held by whoever uses it."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = in_thread(bench.pool().getconn)
    bench.advance(3.0)
    bench.tracker.used(wire_of(bench.tracker, kept))
    assert bench.kinds(100.0) == []
    assert hold_of(bench.tracker, kept).owner is bench.tracker.owners.current()


def test_the_second_owner_can_end_too() -> None:
    """A connection that went through two threads is orphaned by the end of the second one."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = in_thread(bench.pool().getconn)
    bench.advance(3.0)
    in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, kept)), name="second")
    assert bench.kinds(4.75) == []
    (found,) = findings(bench.advance(0.5))
    assert found.kind == "orphaned"
    assert 'thread "second"' in found.reason


def test_who_lent_a_connection_has_it_back() -> None:
    """A thread that only used another's connection and ended leaves no orphan: its lender lives on."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = bench.pool().getconn()
    mine = bench.tracker.owners.current()
    in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, kept)))
    assert hold_of(bench.tracker, kept).owner is not mine
    assert bench.kinds(100.0) == []
    assert hold_of(bench.tracker, kept).owner is mine
    assert list(mine.open.values()) == [hold_of(bench.tracker, kept)]


def test_a_lender_that_ends_as_well_leaves_an_orphan() -> None:
    """Lent to a thread that ended, given back to a thread that ends later."""
    bench = Bench(owner_grace=5.0, threshold=None)
    pool = bench.pool()

    def lend() -> Connection:
        connection = pool.getconn()
        in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, connection)), name="borrower")
        assert bench.kinds(20.0) == []
        return connection

    kept = in_thread(lend, name="lender")
    (found,) = findings(bench.advance(20.0))
    assert found.kind == "orphaned"
    assert 'thread "lender"' in found.reason
    assert kept is not None


def test_an_owner_that_ends_late_is_noticed() -> None:
    """Old holds cost one look per owner and tick: a task that ends after a minute leaves an orphan too."""
    bench = Bench(owner_grace=5.0, threshold=None, idle_in_transaction=None)
    pool = bench.pool()

    async def serve() -> Connection:
        connection = pool.getconn()
        assert bench.kinds(60.0) == []
        return connection

    kept = asyncio.run(serve())
    assert bench.kinds(4.75) == []
    assert bench.kinds(1.0) == ["orphaned"]
    assert kept is not None


def fetched(pool: Pool) -> Connection:
    """A connection that a bare ``create_task(pool.getconn())`` fetched: no frame of ours was on its stack."""
    fetch = library_code("async def fetch(pool):\n    return pool.getconn()")["fetch"]

    async def main() -> Connection:
        result = await asyncio.create_task(fetch(pool))
        assert isinstance(result, Connection)
        return result

    return asyncio.run(main())


def test_the_end_of_a_task_that_only_fetched_is_no_orphan() -> None:
    """No frame but the library's own: the task delivered the connection to somebody who still has it."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = fetched(bench.pool())
    assert hold_of(bench.tracker, kept).site is None
    assert bench.kinds(100.0) == []


def test_a_fetched_connection_is_orphaned_by_the_end_of_its_first_user() -> None:
    """Once somebody has used it, there is an owner whose end says something."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = fetched(bench.pool())
    in_thread(lambda: bench.tracker.used(wire_of(bench.tracker, kept)))
    assert bench.kinds(10.0) == ["orphaned"]


def test_with_stacks_off_an_orphan_is_still_found() -> None:
    """Where no stack was recorded at all, the missing site is no sign of a delivery."""
    bench = Bench(owner_grace=5.0, threshold=None)
    bench.tracker.recorder.mode = "off"
    kept = in_thread(bench.pool().getconn)
    assert hold_of(bench.tracker, kept).site is None
    assert bench.kinds(10.0) == ["orphaned"]


# ----------------------------------------------------------------------------------------------- proof and silence


def test_proof_suppresses_suspicion() -> None:
    """An orphan does not become overdue as well."""
    bench = Bench(owner_grace=5.0, threshold=20.0)
    kept = in_thread(bench.pool().getconn)
    assert bench.kinds(300.0) == ["orphaned"]
    assert kept is not None


def test_suspicion_then_proof_are_both_told() -> None:
    """First overdue, then its owner ended: one suspicion, one certain leak."""
    bench = Bench(owner_grace=5.0, threshold=2.0)
    kept = in_thread(bench.pool().getconn)
    assert bench.kinds(300.0) == ["overdue", "orphaned"]
    assert kept is not None


def test_an_orphan_that_is_collected_is_not_told_again() -> None:
    """At most one certain leak a hold; the accounts count the collection all the same."""
    bench = Bench(owner_grace=5.0)
    held = [in_thread(bench.pool().getconn)]
    assert bench.kinds(10.0) == ["orphaned"]
    held.clear()
    gc.collect()
    assert bench.kinds(10.0) == []
    assert bench.counts() == (1, 0, 0, 1)


@pytest.mark.parametrize("what", ["overdue", "orphaned", "idle_in_transaction", "dropped"])
def test_what_is_allowed_is_never_found(what: str) -> None:
    """A hold with a reason is silent through all the rules; `test_what_is_not_allowed_is_found` is its twin."""
    assert found_of(what, lambda hold: setattr(hold, "allowed", "the leader's lock")) == []


@pytest.mark.parametrize("what", ["overdue", "orphaned", "idle_in_transaction", "dropped"])
def test_what_is_not_allowed_is_found(what: str) -> None:
    """The same four holds without a reason."""
    assert found_of(what, lambda hold: None) == [what]


@pytest.mark.parametrize("what", ["overdue", "orphaned", "idle_in_transaction", "dropped"])
def test_what_is_covered_is_never_found(what: str) -> None:
    """Where pools are stacked, only the outer one reports."""
    assert found_of(what, lambda hold: setattr(hold, "covered", True)) == []


def found_of(what: str, prepare: Callable[[HoldRecord], None]) -> list[str]:
    """What is found within a minute of a hold that is prepared and then leaks in one way."""
    bench = Bench(
        threshold=30.0 if what == "overdue" else None,
        idle_in_transaction=30.0 if what == "idle_in_transaction" else None,
    )
    pool = bench.pool()
    acquire = lambda: pool.getconn("in_transaction")  # noqa: E731
    held = [in_thread(acquire) if what == "orphaned" else acquire()]
    prepare(hold_of(bench.tracker, held[0]))
    if what == "dropped":
        held.clear()
        gc.collect()
    return bench.kinds(60.0)


def test_allowing_takes_effect_in_the_midst_of_a_hold() -> None:
    """`allow()` is mostly called long after the acquire, when the schedule knows the hold already."""
    bench = Bench(threshold=10.0)
    kept = bench.pool().getconn()
    bench.advance(5.0)
    hold_of(bench.tracker, kept).allowed = "a report"
    assert bench.kinds(100.0) == []


def test_an_unwatched_pool_is_not_judged() -> None:
    """Nobody watches, nobody is told."""
    bench = Bench(threshold=1.0)
    pool = bench.pool()
    kept = pool.getconn()
    pool.record.watch = None
    assert bench.kinds(10.0) == []
    assert kept is not None


# ------------------------------------------------------------------------------------------------------ long holds


def test_expect_long_raises_the_threshold_of_its_holds() -> None:
    """The context's limit counts instead of the guard's, for what was acquired inside it alone."""
    bench = Bench(threshold=10.0)
    pool = bench.pool()
    with entered(long=LongHold(reason="nightly report", threshold=100.0)):
        inside = pool.getconn()
    assert bench.kinds(99.75) == []
    outside = in_thread(lambda: pool.getconn())
    bench.tracker.used(wire_of(bench.tracker, outside))
    assert bench.kinds(0.25) == ["overdue"]
    assert bench.kinds(9.5) == []
    assert bench.kinds(0.25) == ["overdue"]
    assert (inside, outside) is not None


@pytest.mark.parametrize(
    ("threshold", "idle", "expected"),
    [
        pytest.param(10.0, 5.0, (100.0, 100.0), id="both raised"),
        pytest.param(10.0, 500.0, (100.0, 500.0), id="an idle limit that is higher stays"),
        pytest.param(None, 5.0, (None, 100.0), id="an overdue limit that is off stays off"),
        pytest.param(10.0, None, (100.0, None), id="an idle limit that is off stays off"),
    ],
)
def test_expect_long_never_makes_a_limit_stricter(
    threshold: float | None, idle: float | None, expected: tuple[float | None, float | None]
) -> None:
    """What is off stays off, and a transaction may idle as long as the hold may last."""
    bench = Bench(threshold=threshold, idle_in_transaction=idle)
    with entered(long=LongHold(reason="nightly report", threshold=100.0)):
        kept = bench.pool().getconn()
    limits = limits_of(hold_of(bench.tracker, kept))
    assert (limits.threshold, limits.idle_in_transaction) == expected


def test_a_transaction_that_has_just_begun_is_not_idle() -> None:
    """Whoever looks between BEGIN and the first statement sees a transaction, and a last use from long before."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker, "idle")
    bench.kinds(19.5)
    kept.state = "in_transaction"
    assert bench.kinds(0.25) == []  # the look that was due
    kept.state = "active"
    bench.tracker.statement(wire_of(bench.tracker, kept), "SELECT 1")
    assert bench.kinds(0.25) == []
    bench.tracker.used(wire_of(bench.tracker, kept))
    kept.state = "in_transaction"
    assert bench.kinds(9.75) == []
    assert bench.kinds(0.5) == ["idle_in_transaction"]


def test_a_transaction_that_was_seen_idle_twice_is() -> None:
    """Its leaking twin: nothing has happened between the two looks."""
    bench = Bench(threshold=None, idle_in_transaction=10.0)
    kept = connect(bench.tracker, "idle")
    bench.kinds(19.5)
    kept.state = "in_transaction"
    assert bench.kinds(0.25) == []
    assert bench.kinds(0.25) == ["idle_in_transaction"]


# ------------------------------------------------------------------------------------------------------ lost slots


def test_a_checkout_that_is_closed_loses_its_slot_after_the_grace() -> None:
    """Closed instead of returned: proof, with the hold."""
    bench = Bench(owner_grace=5.0)
    kept = bench.pool().getconn()
    bench.advance(1.0)
    close(bench.tracker, kept)
    assert bench.kinds(4.75) == []
    (found,) = findings(bench.advance(0.25))
    assert (found.kind, found.certain, found.hold) == ("lost_slot", True, hold_of(bench.tracker, kept))
    assert bench.kinds(300.0) == []


def test_a_closed_checkout_that_is_returned_in_time_is_none() -> None:
    """The clean twin: close, then putconn, within the grace."""
    bench = Bench(owner_grace=5.0)
    pool = bench.pool()
    kept = pool.getconn()
    close(bench.tracker, kept)
    bench.advance(4.75)
    pool.putconn(kept)
    assert bench.kinds(300.0) == []


def test_a_pool_that_notices_a_close_loses_nothing() -> None:
    """SQLAlchemy invalidates and opens anew."""
    bench = Bench(owner_grace=5.0, threshold=None)
    kept = bench.pool(probe=Probe(loses_slot=False)).getconn()
    close(bench.tracker, kept)
    assert bench.kinds(300.0) == []


def test_a_closed_direct_connection_is_over() -> None:
    """A direct hold ends with the close."""
    bench = Bench()
    kept = connect(bench.tracker)
    close(bench.tracker, kept)
    assert bench.kinds(300.0) == []
    assert bench.counts() == (1, 1, 0, 0)


# --------------------------------------------------------------------------------------------------------- dropped


@pytest.mark.parametrize(
    ("healed", "closed", "words", "lost"),
    [
        pytest.param(False, False, "the pool has lost this slot for good", 1, id="dropped"),
        pytest.param(True, False, "took its place back", 0, id="healed"),
        pytest.param(False, True, "closed instead of returned", 1, id="closed and dropped"),
    ],
)
def test_a_checkout_that_is_collected_is_dropped(healed: bool, closed: bool, words: str, lost: int) -> None:
    """At once, with what has become of its slot."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    if closed:
        close(bench.tracker, kept)
    bench.tracker.collected(hold_of(bench.tracker, kept), healed=healed)
    (found,) = findings(bench.drain())
    assert (found.kind, found.certain, found.healed) == ("dropped", True, healed)
    assert words in found.reason
    assert found.state == ("closed" if closed else None)
    assert pool.record.lost == lost


def test_the_collector_reports_a_dropped_checkout_and_a_dropped_connection() -> None:
    """The weak reference of the wire is enough; a direct connection is told as what it is."""
    bench = Bench()
    pool = bench.pool()
    held: list[object] = [pool.getconn(), connect(bench.tracker)]
    held.clear()
    gc.collect()
    found = findings(bench.beat())
    assert [one.kind for one in found] == ["dropped", "dropped"]
    assert any("nothing closed it" in one.reason for one in found)
    assert bench.counts() == (2, 0, 0, 2)
    assert pool.record.lost == 1


def test_what_was_given_back_may_be_collected() -> None:
    """The clean twin: released, closed, then garbage."""
    bench = Bench()
    pool = bench.pool()
    pool.putconn(pool.getconn())
    close(bench.tracker, connect(bench.tracker))
    pool.idle.clear()
    gc.collect()
    assert bench.kinds(10.0) == []
    assert bench.counts() == (2, 2, 0, 0)


def test_a_detached_connection_that_is_dropped_is_called_so() -> None:
    """It is no checkout any more: the pool has lost nothing."""
    bench = Bench()
    pool = bench.pool()
    held = [pool.getconn()]
    hold_of(bench.tracker, held[0]).detached = True
    held.clear()
    gc.collect()
    (found,) = findings(bench.beat())
    assert "detached connection" in found.reason
    assert pool.record.lost == 0


def test_stacked_holds_are_dropped_once() -> None:
    """The outer hold is reported, both are counted."""
    bench = Bench()
    inner, outer = bench.pool("inner"), bench.pool("outer", library="sqlalchemy")
    held = [inner.getconn()]
    wire = wire_of(bench.tracker, held[0])
    bench.tracker.acquired(outer.record, bench.watch, wire, wire.ref, "connect", 1)
    held.clear()
    gc.collect()
    (found,) = findings(bench.beat())
    assert found.pool is outer.record
    assert bench.counts() == (2, 0, 0, 2)


def test_a_collection_that_nobody_watches_is_not_counted() -> None:
    """Its guard has gone: no finding, no count."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    hold = hold_of(bench.tracker, kept)
    pool.record.watch = None
    assert list(bench.judge.take(Collected(hold, False), 1000.0)) == []
    assert bench.watch.collected == 0


# ---------------------------------------------------------------------------------------------------------- nested


def test_an_acquire_while_holding_of_the_same_pool_is_nested() -> None:
    """Judged at the attempt, with the place of the first acquisition, as advice."""
    bench = Bench()
    pool = bench.pool()
    kept = [pool.getconn(), pool.getconn()]
    (found,) = findings(bench.beat())
    assert (found.kind, found.certain) == ("nested_acquire", False)
    assert "test_judge.py:" in found.reason
    assert len(kept) == 2


def test_nested_is_told_before_the_acquire_can_block() -> None:
    """The attempt alone tells it, whatever becomes of the acquire."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    bench.tracker.begin(pool.record)
    assert kinds(bench.drain()) == ["nested_acquire"]
    assert kept is not None


@pytest.mark.parametrize("clean", ["given back", "another pool", "another thread", "no limit", "allowed", "direct"])
def test_what_is_not_nested(clean: str) -> None:
    """One after the other, two pools, two threads, a pool that cannot run dry, a hold on purpose, no pool at all."""
    bench = Bench()
    pool = bench.pool(size=None if clean == "no limit" else 4)
    kept = [connect(bench.tracker) if clean == "direct" else pool.getconn()]
    if clean == "given back":
        pool.putconn(kept[0])
    if clean == "allowed":
        hold_of(bench.tracker, kept[0]).allowed = "leader"
    again = bench.pool("other") if clean == "another pool" else pool
    kept.append(in_thread(again.getconn) if clean == "another thread" else again.getconn())
    assert kinds(bench.beat()) == []


def test_a_nested_acquire_of_an_unwatched_pool_is_nothing() -> None:
    """The guard went between the attempt and its judgement."""
    bench = Bench()
    pool = bench.pool()
    kept = [pool.getconn(), pool.getconn()]
    pool.record.watch = None
    assert kinds(bench.beat()) == []
    assert len(kept) == 2


# ----------------------------------------------------------------------------------------------------- accounting


def test_a_slot_that_no_hold_explains_is_lost_in_steady_state() -> None:
    """The pool counts one more than we know of, for longer than the grace: found once, without a hold."""
    bench = Bench(owner_grace=5.0)
    pool = bench.pool()
    pool.out += 1
    assert bench.kinds(5.0) == []
    (found,) = findings(bench.advance(2.0))
    assert (found.kind, found.certain, found.hold, found.pool) == ("lost_slot", True, None, pool.record)
    assert bench.kinds(60.0) == []


def test_each_lost_slot_is_found() -> None:
    """Two slots, two findings; a third one later is a third."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool()
    pool.out += 2
    assert bench.kinds(30.0) == ["lost_slot", "lost_slot"]
    pool.out += 1
    assert bench.kinds(30.0) == ["lost_slot"]


def test_a_slot_that_comes_back_may_be_lost_again() -> None:
    """What was told is taken back from the account when the pool counts right again."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool()
    pool.out += 1
    assert bench.kinds(10.0) == ["lost_slot"]
    pool.out -= 1
    assert bench.kinds(10.0) == []
    pool.out += 1
    assert bench.kinds(10.0) == ["lost_slot"]


def test_a_passing_excess_is_none() -> None:
    """A connection on its way in or out is counted by the pool a moment longer than by us."""
    bench = Bench(owner_grace=5.0)
    pool = bench.pool()
    for _ in range(10):
        pool.out += 1
        assert bench.kinds(4.0) == []
        pool.out -= 1
        assert bench.kinds(2.0) == []


EXPLANATIONS = (
    "holds, lost, under way, connecting, cannot connect, tries again, on its way home, cannot tell, unwatched"
)


@pytest.mark.parametrize("reason", EXPLANATIONS.split(", "))
def test_what_explains_an_excess(reason: str) -> None:
    """Holds, drops that were told, acquires that wait, connects and their retries, what is being reset, and a pool that
    does not know."""
    bench = Bench(owner_grace=1.0, threshold=None)
    pool = bench.pool()
    kept: list[object] = []
    match reason:
        case "holds":
            kept.append(pool.getconn())
        case "lost":
            held = [pool.getconn()]
            held.clear()
            gc.collect()
            bench.beat()
        case "under way":
            bench.tracker.begin(pool.record)
            pool.out += 1
        case "connecting":
            next(pool.record.connects_begun)
            pool.out += 1
        case "tries again":
            pool.record.retries_until = bench.clock.monotonic() + 300.0
            pool.out += 1
        case "on its way home":
            kept.append(pool.getconn())
            pool.putconn(kept[0])  # released, and the pool still rolls it back
            pool.out, pool.home = 1, 0
        case "cannot connect":
            pool.record.error = "connection refused"
            pool.out += 1
        case "cannot tell":
            pool.out = None  # type: ignore[assignment]
        case "unwatched":
            pool.out += 1
            pool.record.watch = None
    assert bench.kinds(30.0) == []


def test_who_waits_in_line_does_not_explain_it() -> None:
    """An acquire that the pool has put in line has no connection yet: the slot is lost all the same."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool()
    bench.tracker.begin(pool.record)
    pool.out, pool.waiting = 1, 1
    assert bench.kinds(10.0) == ["lost_slot"]


def test_a_retry_is_over_once_the_books_balance() -> None:
    """The pool counts no more than is held: none of its connects is left to be tried again."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool()
    pool.record.retries_until = bench.clock.monotonic() + 300.0
    assert bench.kinds(2.0) == []
    pool.out += 1
    assert bench.kinds(10.0) == ["lost_slot"]


def test_a_retry_is_over_after_its_time() -> None:
    """What has not come by then was given up, and what the pool still counts is lost."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool()
    pool.record.retries_until = bench.clock.monotonic() + 300.0
    pool.out += 1
    assert bench.kinds(299.0) == []
    assert bench.kinds(10.0) == ["lost_slot"]


@pytest.mark.parametrize("passing", ["an acquire", "a connect", "a return"])
def test_a_lost_slot_is_told_once_whatever_passes(passing: str) -> None:
    """What explains an excess for a moment does not make the slot of before a new one."""
    bench = Bench(owner_grace=1.0, threshold=None)
    pool = bench.pool()
    pool.out += 1
    assert bench.kinds(10.0) == ["lost_slot"]
    kept = pool.getconn()
    match passing:
        case "an acquire":
            in_thread(lambda: bench.tracker.begin(pool.record))
            assert bench.kinds(10.0) == []
            next(pool.record.finished)
        case "a connect":
            next(pool.record.connects_begun)
            assert bench.kinds(10.0) == []
            next(pool.record.connects_finished)
        case "a return":
            pool.putconn(kept)
            pool.out, pool.home = 2, 0
            assert bench.kinds(10.0) == []
            pool.out, pool.home = 1, 1
    assert bench.kinds(60.0) == []


def test_what_was_out_before_the_pool_was_seen_is_not_judged() -> None:
    """A pool that is older than leakguard starts with a baseline, and what is lost later is found on top of it."""
    bench = Bench(owner_grace=1.0)
    pool = bench.pool(created=False)
    pool.out = 3
    assert bench.kinds(30.0) == []
    pool.out += 1
    assert bench.kinds(30.0) == ["lost_slot"]


def test_the_accounts_are_compared_once_a_second() -> None:
    """Asking a pool for its counts costs something: not at every beat."""

    class Asked(Probe):
        times = 0

        def account(self, pool: object) -> Account | None:
            self.times += 1
            return super().account(pool)

    bench = Bench()
    probe = Asked()
    bench.pool(probe=probe)
    bench.advance(10.0)
    assert 10 <= probe.times <= 11


def test_a_pool_that_cannot_be_asked_stops_nobody_else() -> None:
    """A probe that raises costs its own pool's accounting, not the findings of the others."""

    class Broken(Probe):
        def account(self, pool: object) -> Account | None:
            raise RuntimeError("this pool is in a bad mood")

    bench = Bench(owner_grace=1.0, threshold=1.0)
    broken, fine = bench.pool("broken", probe=Broken()), bench.pool("fine")
    kept = [broken.getconn(), fine.getconn()]
    fine.out += 1
    assert sorted(bench.kinds(10.0)) == ["lost_slot", "overdue", "overdue"]
    assert len(kept) == 2


# ------------------------------------------------------------------------------------------------------------ pools


def test_a_pool_that_is_collected_with_connections_open_is_unclosed() -> None:
    """The server still has them, and nobody can close them any more."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    pool.putconn(kept)
    record = pool.record
    del pool
    bench.pools.clear()
    gc.collect()
    (found,) = findings(bench.drain())
    assert (found.kind, found.certain, found.hold, found.pool) == ("unclosed_pool", True, None, record)
    assert "1 server connection" in found.reason
    assert list(bench.tracker.pools.values()) == []


@pytest.mark.parametrize("clean", ["closed", "never opened", "disposed", "unwatched"])
def test_a_pool_without_open_connections_may_be_collected(clean: str) -> None:
    """Closed, empty and disposed pools end in order."""
    bench = Bench()
    pool = bench.pool()
    kept = [pool.getconn()] if clean != "never opened" else []
    for connection in kept:
        pool.putconn(connection)
        if clean == "closed":
            close(bench.tracker, connection)
    pool.record.disposed = clean == "disposed"
    if clean == "unwatched":
        pool.record.watch = None
    del pool
    bench.pools.clear()
    gc.collect()
    assert kinds(bench.drain()) == []


# ------------------------------------------------------------------------------------------------------- boundaries


def test_a_hold_that_crosses_a_boundary_is_outstanding_once() -> None:
    """Proof at a boundary of ours, a suspicion at the process's end."""
    bench = Bench()
    kept = bench.pool().getconn()
    hold = hold_of(bench.tracker, kept)
    found = bench.judge.outstanding(hold, "no_leaks", 1000.0)
    assert found is not None
    assert (found.kind, found.certain, found.boundary) == ("outstanding", True, "no_leaks")
    assert bench.judge.outstanding(hold, "exit", 1000.0) is None


def test_at_exit_only_checkouts_are_outstanding_and_nothing_is_proven() -> None:
    """A direct connection that is open at exit is ordinary."""
    bench = Bench()
    checkout, direct = bench.pool().getconn(), connect(bench.tracker)
    found = bench.judge.outstanding(hold_of(bench.tracker, checkout), "exit", 1000.0)
    assert found is not None
    assert found.certain is False
    assert bench.judge.outstanding(hold_of(bench.tracker, direct), "exit", 1000.0) is None
    assert bench.judge.outstanding(hold_of(bench.tracker, direct), "test", 1000.0) is not None


@pytest.mark.parametrize("clean", ["allowed", "covered", "ended", "proven", "unwatched"])
def test_what_crosses_a_boundary_in_order(clean: str) -> None:
    """Allowed, covered by an outer hold, ended meanwhile, told already, watched by nobody."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    hold = hold_of(bench.tracker, kept)
    match clean:
        case "allowed":
            hold.allowed = "leader"
        case "covered":
            hold.covered = True
        case "ended":
            bench.tracker.released(hold)
        case "proven":
            hold.proven = True
        case "unwatched":
            pool.record.watch = None
    assert bench.judge.outstanding(hold, "no_leaks", 1000.0) is None


def test_judging_everything_finds_what_is_due_now() -> None:
    """`check()` does not wait for the first look; what is not due stays unfound."""
    bench = Bench(threshold=0.1, owner_grace=0.0)
    pool = bench.pool()
    kept = pool.getconn()
    assert bench.judge.judge_all(1000.0) == []
    bench.clock.advance(0.1)
    assert kinds(bench.judge.judge_all(1000.1)) == ["overdue"]
    orphan = in_thread(pool.getconn)
    assert kinds(bench.judge.judge_all(1000.1)) == ["orphaned"]
    assert kinds(bench.judge.judge_all(1000.2)) == ["overdue"] * 0
    assert (kept, orphan) is not None


def test_judging_everything_schedules_nothing_twice() -> None:
    """A thousand checks leave the schedule as it was."""
    bench = Bench(threshold=60.0)
    kept = bench.pool().getconn()
    bench.advance(1.0)
    before = len(bench.judge._due)
    for _ in range(100):
        bench.judge.judge_all(bench.clock.monotonic())
    assert len(bench.judge._due) == before
    assert kept is not None


def test_a_handle_that_died_without_a_word_counts_as_released() -> None:
    """StaticPool hands one record out twice and tells of one return."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    hold = hold_of(bench.tracker, kept)
    hold.handle = lambda: None
    assert bench.judge.judge_all(1000.0) == []
    assert hold.ended is not None
    assert bench.counts() == (1, 1, 0, 0)


def test_a_suspect_site_gets_full_stacks_from_then_on() -> None:
    """The next report of that line has the whole stack."""
    bench = Bench(threshold=1.0)
    pool = bench.pool(size=None)
    kept = [pool.getconn() for _ in range(5)]
    site = hold_of(bench.tracker, kept[0]).site
    assert site is not None
    assert not site.suspect
    bench.advance(2.0)
    assert site.suspect


def test_signals_of_no_consequence_change_nothing() -> None:
    """A wake-up and a hold that came back unwatched are no findings."""
    bench = Bench()
    pool = bench.pool()
    kept = pool.getconn()
    hold = hold_of(bench.tracker, kept)
    assert list(bench.judge.take(None, 1000.0)) == []
    pool.record.watch = None
    assert list(bench.judge.take(Returned(hold, 1000.0), 1000.0)) == []
    assert list(bench.judge.take(Nested(hold, hold), 1000.0)) == []


def test_after_its_guard_has_gone_a_scheduled_hold_is_left_alone() -> None:
    """At the process's end nobody watches any more, while the watchdog may beat on."""
    bench = Bench(threshold=1.0, owner_grace=1.0)
    pool = bench.pool()
    kept = [pool.getconn(), in_thread(pool.getconn)]
    bench.advance(0.5)
    bench.tracker.process_watch = None
    bench.tracker.assign()
    assert bench.kinds(10.0) == []
    assert len(kept) == 2


def test_a_watch_that_has_gone_leaves_no_excess_behind() -> None:
    """What another guard watched and still is out is no lost slot of the guard that takes the pool over."""
    bench = Bench(owner_grace=1.0)
    special = Watch(Settings())
    bench.tracker.targets.append((lambda _pool: True, special))
    pool = bench.pool()
    kept = pool.getconn()
    bench.advance(2.0)
    bench.tracker.targets.clear()
    bench.tracker.forget_watch(special)
    bench.tracker.assign()
    assert bench.kinds(30.0) == []
    pool.putconn(kept)
    assert bench.kinds(30.0) == []


def test_a_pool_that_changes_guards_takes_its_counts_along() -> None:
    """A hold is counted by the guard that judges it, also when `watch()` comes after the acquire."""
    bench = Bench()
    pool = bench.pool()
    held = [pool.getconn(), pool.getconn()]
    special = Watch(Settings())
    bench.tracker.targets.append((lambda _pool: True, special))
    bench.tracker.assign()
    assert (count_of(bench.watch.acquired), count_of(bench.watch.forgotten)) == (2, 2)
    assert (count_of(special.acquired), count_of(special.forgotten)) == (2, 0)
    del held[0]
    gc.collect()
    bench.beat()
    assert (special.collected, bench.watch.collected) == (1, 0)


def test_a_connection_that_its_own_finalizer_gives_back_was_not_dropped() -> None:
    """In a cycle of garbage the weak references die first: the verdict waits a moment for what the finalizers do."""
    bench = Bench()
    bench.judge = Judge(bench.tracker)
    pool = bench.pool()
    held = [pool.getconn()]
    hold = hold_of(bench.tracker, held[0])
    held.clear()
    gc.collect()
    assert kinds(bench.beat()) == []
    bench.tracker.released(hold)
    pool.out -= 1
    assert bench.kinds(10.0) == []
    assert bench.counts() == (1, 1, 0, 0)


def test_a_dropped_connection_is_found_within_a_second() -> None:
    """The twin: nobody gave it back, and the moment was short."""
    bench = Bench()
    bench.judge = Judge(bench.tracker)
    held = [bench.pool().getconn()]
    held.clear()
    gc.collect()
    assert bench.kinds(0.5) == ["dropped"]


def test_holds_that_have_ended_do_not_pile_up_until_their_moment() -> None:
    """A service whose holds all last a third of a second would otherwise keep a minute's worth of them."""
    bench = Bench(threshold=1e6, idle_in_transaction=None)
    pool = bench.pool(size=None)
    kept = pool.getconn()
    for _ in range(CROWD + 10):
        for connection in [pool.getconn() for _ in range(3)]:
            bench.clock.advance(FIRST_LOOK)
            bench.beat()
            pool.putconn(connection)
    assert len(bench.judge._due) <= CROWD
    assert len(bench.judge._next) <= CROWD
    bench.clock.advance(1e6)
    assert kinds(bench.beat()) == ["overdue"]  # the one that is still held was not thrown away with them
    assert kept is not None


def test_a_crowd_that_is_released_at_once_is_forgotten_within_a_second() -> None:
    """Ten thousand holds that were scheduled, and nothing that comes after them."""
    bench = Bench(threshold=1e6, idle_in_transaction=None)
    pool = bench.pool(size=None)
    held = [pool.getconn() for _ in range(10_000)]
    bench.clock.advance(FIRST_LOOK)
    bench.beat()
    assert len(bench.judge._due) == 10_000
    for connection in held:
        pool.putconn(connection)
    bench.clock.advance(1.0)
    bench.beat()
    assert bench.judge._due == []
