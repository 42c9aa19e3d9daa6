"""The judge: puts the rules to the holds, when something happened to one or when its moment has come.

Used by one thread at a time, under the guard's lock; calls nobody out. What it finds goes back as `Finding`s, which
name live records and are turned into reports by the guard.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from leakguard.judging import rules, wording
from leakguard.judging.accounts import lost_slots
from leakguard.judging.limits import limits_of, shortest
from leakguard.judging.rules import Facts, Limits
from leakguard.model import Boundary, Kind, State
from leakguard.register.owners import OwnerRecord
from leakguard.register.reachability import CONFIRMED_AFTER, KEEPING, Abandoned, is_abandoned
from leakguard.register.records import End, HoldRecord, PoolRecord, PoolRef, Watch, Wire, WireRef
from leakguard.register.signals import Changed, Collected, Nested, Refused, Returned, Signal
from leakguard.register.stacks import is_delivery
from leakguard.register.tracker import Tracker

FIRST_LOOK: Final = 0.25
"""Seconds until the watchdog takes a hold into its schedule. Most holds are long over by then and cost nothing."""
TICK: Final = 0.25
"""Seconds between two looks at the owners of holds that have become old."""
IDLE_CONFIRMED_AFTER: Final = 0.25
"""Seconds between the two looks that a transaction without a statement takes: a driver sends BEGIN before the first
one, and who looks right in between sees a transaction, and a last use from before it."""
IDLE_TICK: Final = 0.5
"""Seconds between two looks when nothing old is held."""
LOST_SITES_LIMIT: Final = 20
"""How many different lines that lost a slot are remembered for each pool, for the note of its exhaustion."""
SETTLING: Final = 0.1
"""Seconds between a connection's end and the verdict. In a cycle of garbage the weak references die before the
finalizers run, and one of those may close the connection, or give it back, in the next moment."""
CROWD: Final = 1_000
"""From so many scheduled looks on, those at holds that have ended are thrown away each time their number doubles."""
STALLS_LIMIT: Final = 100
"""The most standstills of the process that are remembered."""
ACCOUNTING_EVERY: Final = 1.0
"""Seconds between two comparisons of a pool's own counts with ours."""

CERTAIN: Final = frozenset[Kind]({"dropped", "orphaned", "lost_slot", "unclosed_pool"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A leak, before it is resolved for a reader. `hold` is None where the pool itself is the matter."""

    kind: Kind
    certain: bool
    watch: Watch
    pool: PoolRecord
    hold: HoldRecord | None
    reason: str
    advice: str
    at: float
    healed: bool = False
    boundary: Boundary | None = None
    state: State | None = None


Outcome = Finding | Returned | Refused


class Judge:
    """Knows what is due when. Not thread-safe: the caller holds the guard's lock."""

    def __init__(self, tracker: Tracker, settling: float = SETTLING) -> None:
        self._tracker = tracker
        self._settling = settling
        self._due: list[tuple[float, int, HoldRecord]] = []
        self._next: dict[int, float] = {}
        self._owners: dict[OwnerRecord, None] = {}
        self._gone: deque[tuple[float, Wire]] = deque()
        self._abandoned = Abandoned()
        self._crowded = CROWD
        self._accounting_at = 0.0
        self._stalls: list[tuple[float, float]] = []

    # ------------------------------------------------------------------ the watchdog's questions

    def wait_for(self, now: float) -> float:
        """How many seconds nothing needs to be looked at, unless a signal arrives."""
        if self._gone:
            return max(0.0, self._gone[0][0] - now)
        wait = CONFIRMED_AFTER if self._abandoned.waiting else TICK if self._owners else IDLE_TICK
        if self._due:
            return min(wait, TICK, max(0.0, self._due[0][0] - now))
        return wait

    def excuse(self, until: float, seconds: float) -> None:
        """The whole process stood still for so many seconds (it was stopped, or its machine was): nobody could have
        released anything meanwhile, so what was held then may be held for longer."""
        self._stalls.append((until, seconds))
        del self._stalls[:-STALLS_LIMIT]

    def _since(self, moment: float) -> float:
        """The moment at which a clock that stood still with the process would count from."""
        return moment + sum(seconds for until, seconds in self._stalls if moment < until)

    def take(self, signal: Signal, now: float) -> Iterable[Outcome]:
        """Judge one thing that happened."""
        match signal:
            case WireRef():
                self._gone.append((now + self._settling, signal.wire))
                return []
            case PoolRef():
                return self._pool_gone(signal.record, now)
            case Collected(hold, healed):
                return self._dropped(hold, healed=healed, now=now)
            case Returned(hold, _):
                return [] if hold.pool.watch is None else [signal]
            case Nested(attempt, outer):
                return self._nested(attempt, outer, now)
            case Changed(hold):
                self._schedule(hold, now)
                return []
            case Refused():
                return [signal]
            case None:
                return []

    def sweep(self, now: float) -> list[Outcome]:
        """Judge what is due at `now`. Costs as much as is due, plus one look per owner of something old."""
        self._take_in(now)
        self._look_at_owners(now)
        found = self.settle(now)
        found += self._look_for_abandoned(now)
        while self._due and self._due[0][0] <= now:
            due, serial, hold = heapq.heappop(self._due)
            if self._next.get(serial) != due:
                continue  # an earlier look has taken its place
            del self._next[serial]
            if hold.ended is None:
                found += self._judge(hold, now)
        if now >= self._accounting_at:
            self._accounting_at = now + ACCOUNTING_EVERY
            found += self._look_at_accounts(now)
            if len(self._due) > CROWD + 2 * sum(len(record.aged) for record in self._tracker.records()):
                self._forget_ended()
        return found

    def settle(self, now: float, *, everything: bool = False) -> list[Outcome]:
        """Judge the holds of the connections that have been gone for long enough, or of all that are gone."""
        found: list[Outcome] = []
        while self._gone and (everything or self._gone[0][0] <= now):
            found += self._wire_gone(self._gone.popleft()[1], now)
        return found

    def judge_all(self, now: float) -> list[Outcome]:
        """Judge every hold now, due or not: what `check()` and the boundaries ask."""
        found = self.settle(now, everything=True)
        for hold in self._tracker.holds():
            if hold.handle is not None and hold.handle() is None and hold.ended is None:
                # A handle that died without a word: StaticPool hands one record out twice and tells of one return.
                self._tracker.released(hold)
            elif hold.pool.watch is not None:
                hold.owner.look(now)
                if self._is_open_question(hold) and is_abandoned(hold):
                    found.append(self._abandoned_by_all(hold, now))
                found += self._judge(hold, now, reschedule=False)
        return found

    def outstanding(self, hold: HoldRecord, boundary: Boundary, now: float, where: str = "") -> Finding | None:
        """The hold crosses a boundary, which `where` words; None if that is in order or has been told."""
        if hold.pool.watch is None or hold.allowed is not None or hold.proven or hold.covered or hold.ended is not None:
            return None
        if boundary == "exit" and not hold.is_checkout:
            return None
        hold.proven = True
        return self._finding("outstanding", hold, where, now, certain=boundary != "exit", boundary=boundary)

    def unclosed(self, record: PoolRecord, now: float, where: str) -> Finding | None:
        """The pool outlives the boundary that `where` words; None if it holds no idle server connection."""
        still_open = record.idle()
        if record.watch is None or record.disposed or record.unclosed_told or not still_open:
            return None
        record.unclosed_told = True
        reason = f'Pool "{record.name}" still had {still_open} server connection(s) open {where}.'
        return replace(self._pool_finding("unclosed_pool", record, reason, now), boundary="test")

    def leave_open(self, now: float, ending: Collection[int] = ()) -> None:
        """The process ends: a direct connection counts as open at exit, which is ordinary, also where its thread has
        ended within its grace, or is one of those `ending` (idents). Whoever leaves stops his threads first, and it
        cannot be told which of them would have gone on."""
        for hold in self._tracker.direct.holds():
            owner, watch = hold.owner, hold.pool.watch
            if owner.task_ref is not None or watch is None:
                continue
            if hold.handle is not None and hold.handle() is None:
                continue  # it was collected before the end came
            ended = owner.look(now)
            ends_with_it = owner.ident in ending if ended is None else now - ended < watch.settings.owner_grace
            if ends_with_it:
                hold.allowed = "open when the process ended"

    # ------------------------------------------------------------------ the schedule

    def _take_in(self, now: float) -> None:
        for record in self._tracker.records():
            if record.open:
                for hold in _older_than(record, now - self._first_look(record)):
                    record.aged[hold.serial] = hold
                    record.open.pop(hold.serial, None)
                    if hold.ended is not None:  # released between the look and the move
                        record.aged.pop(hold.serial, None)
                    else:
                        self._schedule(hold, now)

    def _first_look(self, record: PoolRecord) -> float:
        return FIRST_LOOK if record.watch is None else min(FIRST_LOOK, shortest(record.watch.settings))

    def _schedule(self, hold: HoldRecord, now: float) -> None:
        if hold.ended is None and hold.pool.watch is not None:
            self._owners[hold.owner] = None
            self._push(hold, self._next_due(hold, now))

    def _push(self, hold: HoldRecord, due: float | None) -> None:
        # One look ahead for each hold, the earliest: what a connection that changes hands all day costs stays the same.
        if due is not None and due < self._next.get(hold.serial, math.inf):
            self._next[hold.serial] = due
            heapq.heappush(self._due, (due, hold.serial, hold))
            if len(self._due) > self._crowded:
                self._forget_ended()

    def _forget_ended(self) -> None:
        """Holds that were released long before their moment would fill the memory of a busy service until it comes."""
        self._due = [(due, serial, hold) for due, serial, hold in self._due if hold.ended is None]
        heapq.heapify(self._due)
        self._next = {serial: self._next[serial] for _, serial, _ in self._due if serial in self._next}
        self._crowded = max(CROWD, 2 * len(self._due))

    def _look_at_owners(self, now: float) -> None:
        for owner in list(self._owners):
            if not owner.open:
                del self._owners[owner]
            elif owner.look(now) is not None:
                del self._owners[owner]
                for hold in list(owner.open.values()):
                    lender = self._tracker.hand_back(hold, now)
                    if lender is not None:
                        self._owners[lender] = None
                        continue
                    self._push(hold, self._next_due(hold, now))

    def _next_due(self, hold: HoldRecord, now: float) -> float | None:
        """When the hold has to be looked at next: the first moment after `now` at which a rule could speak."""
        if hold.pool.watch is None or hold.proven or hold.covered or hold.allowed is not None:
            return None  # no rule speaks any more: a moment that has passed would come up again and again
        facts, limits = self._facts(hold), limits_of(hold)
        moments = [rules.orphaned_at(facts, limits), rules.lost_slot_at(facts, limits)]
        if "overdue" not in hold.suspected:
            moments.append(rules.overdue_at(facts, limits))
        if limits.idle_in_transaction is not None and "idle_in_transaction" not in hold.suspected:
            # A transaction that begins later than now is idle for long no earlier than this.
            moment = facts.touched_at + limits.idle_in_transaction - IDLE_CONFIRMED_AFTER
            moments.append(moment if moment > now else now + limits.idle_in_transaction)
        return min((moment for moment in moments if moment is not None), default=None)

    # ------------------------------------------------------------------ one hold

    def _judge(self, hold: HoldRecord, now: float, *, reschedule: bool = True) -> list[Outcome]:
        """Put every rule to one hold, at most one certain leak and one suspicion of each kind in its life."""
        found: list[Outcome] = []
        if hold.owner.look(now) is not None:
            lender = self._tracker.hand_back(hold, now)
            if lender is not None:
                self._owners[lender] = None
        if hold.allowed is None and not hold.covered and hold.pool.watch is not None:
            facts, limits = self._facts(hold), limits_of(hold)
            if not hold.proven:
                found += self._certain(hold, facts, limits, now)
            if not hold.proven:
                found += self._suspicious(hold, facts, limits, now, once=not reschedule)
        if reschedule:
            due = self._next_due(hold, now)
            if due is not None:
                self._push(hold, max(due, now + 0.001))
        return found

    def _facts(self, hold: HoldRecord) -> Facts:
        closed_at = hold.wire.closed_at if hold.wire is not None else None
        return Facts(
            acquired_at=self._since(hold.acquired_at),
            last_used=None if hold.last_used is None else self._since(hold.last_used),
            owner_ended_at=None if hold.owner.ended_at is None else self._since(hold.owner.ended_at),
            closed_at=None if closed_at is None else self._since(closed_at),
            is_checkout=hold.is_checkout,
            close_loses_slot=hold.pool.probe is not None and hold.pool.probe.close_loses_slot(),
            # Asked only once the owner has ended: nothing else needs to know, and it costs a walk over the stack.
            delivered_only=hold.owner.ended_at is not None
            and (hold.owner.hired or (not hold.touched and is_delivery(hold.frames, self._tracker.recorder.rules))),
        )

    def _certain(self, hold: HoldRecord, facts: Facts, limits: Limits, now: float) -> list[Finding]:
        moment = rules.lost_slot_at(facts, limits)
        if moment is not None and moment <= now:
            hold.proven = True
            closed = now - (facts.closed_at or now)
            return [self._finding("lost_slot", hold, wording.duration(closed), now)]
        moment = rules.orphaned_at(facts, limits)
        if moment is not None and moment <= now:
            hold.proven = True
            ended = now - (facts.owner_ended_at or now)
            return [self._finding("orphaned", hold, wording.duration(ended), now)]
        return []

    def _suspicious(self, hold: HoldRecord, facts: Facts, limits: Limits, now: float, *, once: bool) -> list[Finding]:
        """With `once` nobody will look again: the first sight counts."""
        found: list[Finding] = []
        moment = rules.overdue_at(facts, limits)
        if moment is not None and moment <= now and "overdue" not in hold.suspected:
            hold.suspected += ("overdue",)
            found.append(self._finding("overdue", hold, wording.duration(limits.threshold or 0.0), now))
        idle = limits.idle_in_transaction
        if idle is None or "idle_in_transaction" in hold.suspected:
            return found
        if facts.touched_at + idle > (now if once else now + IDLE_CONFIRMED_AFTER):
            return found
        state = state_of(hold)
        touched = self._facts(hold).touched_at  # again: a statement may have run between the look and the question
        moment = rules.idle_in_transaction_at(self._facts(hold), limits, state)
        if moment is None:
            return found
        if hold.idle_since is None or hold.idle_since[1:] != (hold.last_used, hold.statements):
            hold.idle_since = now, hold.last_used, hold.statements
        told_at = moment if once else max(moment, hold.idle_since[0] + IDLE_CONFIRMED_AFTER)
        if told_at <= now:
            hold.suspected += ("idle_in_transaction",)
            idle_for = wording.duration(now - touched)
            found.append(self._finding("idle_in_transaction", hold, idle_for, now, state=state))
        elif not once:
            self._push(hold, told_at)
        return found

    def _finding(
        self,
        kind: Kind,
        hold: HoldRecord,
        detail: str,
        now: float,
        *,
        certain: bool | None = None,
        healed: bool = False,
        boundary: Boundary | None = None,
        state: State | None = None,
    ) -> Finding:
        watch = hold.pool.watch
        assert watch is not None
        if hold.site is not None:
            hold.site.suspect = True
        held = wording.duration(now - hold.acquired_at)
        return Finding(
            kind=kind,
            certain=kind in CERTAIN if certain is None else certain,
            watch=watch,
            pool=hold.pool,
            hold=hold,
            reason=wording.reason_for(kind, owner=hold.owner.label, held=held, detail=detail, boundary=boundary),
            advice=wording.advice_for(kind, hold.library, is_async=is_async(hold)),
            at=now,
            healed=healed,
            boundary=boundary,
            state=state,
        )

    # ------------------------------------------------------------------ things that happened

    def _wire_gone(self, wire: Wire, now: float) -> list[Outcome]:
        self._tracker.drop_wire(wire)
        hold, pool = wire.hold, wire.pool
        # A pool that is dying takes its idle connections along: they are counted when its own end is judged.
        goes_along = pool is not None and hold is None and pool.pool() is None
        if pool is not None and not goes_along and pool.wires.get(wire.key) is wire:
            del pool.wires[wire.key]
        found: list[Outcome] = []
        while hold is not None:
            beneath = hold.beneath
            if self._tracker.end_collected(hold):
                found += self._dropped(hold, healed=False, now=now)
            hold = beneath
        return found

    def _dropped(self, hold: HoldRecord, *, healed: bool, now: float) -> list[Outcome]:
        watch = hold.pool.watch
        if watch is None:
            return []
        if hold.is_checkout and not healed:
            hold.pool.lost += 1
            if hold.site is not None and len(hold.pool.lost_at) < LOST_SITES_LIMIT:
                hold.pool.lost_at[hold.site] = None
        watch.collected += 1
        if hold.proven or hold.covered or hold.allowed is not None:
            return []
        hold.proven = True
        closed = hold.wire is not None and hold.wire.closed_at is not None
        what = "detached connection" if hold.detached else "connection"
        name = hold.pool.name if hold.is_checkout else None
        detail = wording.dropped_reason(what, name, healed=healed, closed=closed)
        if hold.pool.library in KEEPING and hold.handle is not None and hold.handle() is not None:
            detail = wording.abandoned_reason(hold.pool.name)  # its pool was closed, and still has it
        return [self._finding("dropped", hold, detail, now, healed=healed, state="closed" if closed else None)]

    def _look_for_abandoned(self, now: float) -> list[Outcome]:
        """No event tells when the last reference goes: the pools that keep their own are asked at every look."""
        held = [
            hold
            for record in list(self._tracker.pools.values())
            if record.library in KEEPING
            for hold in record.aged.copy().values()
            if self._is_open_question(hold)
        ]
        return [self._abandoned_by_all(hold, now) for hold in self._abandoned.look(held, now)]

    def _is_open_question(self, hold: HoldRecord) -> bool:
        return not (hold.proven or hold.covered) and hold.allowed is None and hold.pool.watch is not None

    def _abandoned_by_all(self, hold: HoldRecord, now: float) -> Finding:
        # The hold goes on: the pool still has the connection, with its transaction and its place among the holders.
        hold.proven = True
        return self._finding("dropped", hold, wording.abandoned_reason(hold.pool.name), now)

    def _nested(self, attempt: HoldRecord, outer: HoldRecord, now: float) -> list[Outcome]:
        if attempt.pool.watch is None or outer.allowed is not None:
            return []
        site = outer.site.site() if outer.site is not None else None
        where = f"{site.file}:{site.line}" if site is not None else "an unknown place"
        return [self._finding("nested_acquire", attempt, where, now)]

    def _pool_gone(self, record: PoolRecord, now: float) -> list[Outcome]:
        self._tracker.drop_pool(record)
        still_open = record.idle()
        if record.watch is None or record.disposed or record.unclosed_told or not still_open:
            return []
        what = "engine" if record.library == "sqlalchemy" else "pool"
        reason = (
            f'The {what} of pool "{record.name}" was garbage-collected with {still_open} server connection(s) open.'
        )
        return [self._pool_finding("unclosed_pool", record, reason, now)]

    def _pool_finding(
        self, kind: Literal["lost_slot", "unclosed_pool"], record: PoolRecord, reason: str, now: float
    ) -> Finding:
        assert record.watch is not None
        return Finding(
            kind=kind,
            certain=True,
            watch=record.watch,
            pool=record,
            hold=None,
            reason=reason,
            advice=wording.advice_for_pool(kind, record.library),
            at=now,
        )

    def _look_at_accounts(self, now: float) -> list[Outcome]:
        found: list[Outcome] = []
        for record, excess in lost_slots(list(self._tracker.pools.values()), now):
            reason = (
                f'Pool "{record.name}" counts {excess} connection(s) as checked out that nobody holds: '
                "they were lost on the way in or out."
            )
            found.append(self._pool_finding("lost_slot", record, reason, now))
        return found


def _older_than(record: PoolRecord, moment: float) -> list[HoldRecord]:
    """The holds acquired before `moment`: the front of a dictionary that other threads change meanwhile."""
    while True:
        found: list[HoldRecord] = []
        try:
            for hold in record.open.values():
                if hold.acquired_at > moment:
                    break
                found.append(hold)
        except RuntimeError:  # changed size during iteration: look again
            continue
        return found


_COLLECTED: Final = (
    End.COLLECTED
)  # until Python 3.12, to look up a member of an Enum costs more than to call a function


def state_of(hold: HoldRecord) -> State:
    """The transaction state of the connection, now."""
    if hold.ended is _COLLECTED:
        return "unknown"
    if hold.active_since is not None:
        return "active"
    wire = hold.wire
    if wire is None:
        return "unknown"
    if wire.closed_at is not None:
        return "closed"
    connection = wire.connection()
    try:
        return "unknown" if connection is None else wire.driver.state(connection)
    except Exception:  # some drivers raise once the connection is closed
        return "unknown"


def is_async(hold: HoldRecord) -> bool:
    """Whether it was acquired by a task; the advice is written for that."""
    return hold.owner.task_ref is not None
