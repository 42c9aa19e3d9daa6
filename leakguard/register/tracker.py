"""The register of holds: what the integrations call from inside the application's acquire and release.

The hot path takes no lock, reads one clock, and never calls out. Whatever must be told or judged later goes as one
record onto `signals`, a ``SimpleQueue``: its ``put()`` may run inside a finalizer that interrupts our own code, where
a lock would deadlock with itself.
"""

from __future__ import annotations

import itertools
from _queue import SimpleQueue
from collections.abc import Callable, Iterator
from typing import Final

from leakguard.clock import Clock
from leakguard.model import Trace
from leakguard.register.awaiters import awaiter_of, raw_stack_of_task
from leakguard.register.jobs import is_of_this_job
from leakguard.register.marks import mark, mark_of, unmark
from leakguard.register.owners import OwnerRecord, Owners
from leakguard.register.reachability import is_abandoned
from leakguard.register.records import (
    BY_SERIAL,
    Driver,
    End,
    HoldRecord,
    Meter,
    PoolProbe,
    PoolRecord,
    PoolRef,
    Watch,
    Wire,
    WireRef,
    new_hold,
)
from leakguard.register.scopes import current_scope
from leakguard.register.signals import Changed, Collected, Nested, Returned, Signal
from leakguard.register.stacks import RawStack, Recorder, SitePoint

LENDERS_LIMIT: Final = 8
"""The most earlier owners of a hold that are remembered, the earliest first."""
NESTED_LIMIT: Final = 8
"""Of how many holds of one owner, the newest, it is asked whether another acquire is nested in them."""

# Names of their own: until Python 3.12, to look up a member of an Enum costs more than to call a function.
_RELEASED: Final = End.RELEASED
_FORGOTTEN: Final = End.FORGOTTEN


class PendingLeaks(Exception):
    """Raised by `Tracker.begin` where ``on_leak="raise"`` has something to say; carries the leaks."""


class Tracker:
    """All pools, server connections and holds of this process. Thread-safe; fork-safe through `forget_parent`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._monotonic = clock.monotonic  # looked up once: the hot path reads it
        self.owners = Owners(clock)
        self.recorder = Recorder()
        self.signals: SimpleQueue[Signal] = SimpleQueue()
        self.process_watch: Watch | None = None
        self.targets: list[tuple[Callable[[object], bool], Watch]] = []
        self.wake: Callable[[], None] = lambda: None
        self.off: set[str] = set()
        self.meter: Meter | None = None
        self.trace: Callable[[], Trace | None] | None = None
        self.closely = self.learning = False
        """Whether acquires and releases are measured, for an exporter or to learn how long they last."""
        self._serials = itertools.count(1)
        self.pools: dict[int, PoolRecord] = {}
        self.wires: dict[int, Wire] = {}
        self._forget_all()

    def _forget_all(self) -> None:
        for record in self.pools.values():
            unmark(record.pool())
        for wire in self.wires.values():
            unmark(wire.connection())
        self.pools, self.wires = {}, {}
        self.direct = PoolRecord(name="direct connections", library="", probe=None, watch=self.process_watch)

    def forget_parent(self) -> None:
        """In a forked child: what the parent holds is the parent's. Nothing inherited may be judged or locked."""
        for hold in self.holds():
            hold.ended = End.FORGOTTEN  # so that giving an inherited connection back changes no count here
        inherited = list(self.pools.values())
        self.owners.forget()
        self.signals = SimpleQueue()
        self._forget_all()
        for old in inherited:
            pool, ref = old.pool(), old.ref
            if pool is not None and ref is not None and old.probe is not None:
                new = self.add_pool(
                    pool, name=old.name, library=old.library, probe=old.probe, created=False, reference=type(ref)
                )
                new.created, new.created_stack, new.nestable = old.created, old.created_stack, old.nestable

    def forget_watch(self, watch: Watch) -> None:
        """Its guard is gone: what it watched is held on unseen."""
        for record in self.records():
            if record.watch is watch:
                for hold in record.holds():
                    self.forget(hold)
                    record.baseline = None  # it is still out: whoever watches the pool next must not miss it

    def clear(self) -> None:
        """No guard is left: remember nothing."""
        self.off.clear()
        self._forget_all()
        self.owners.forget()

    # ------------------------------------------------------------------ who watches what

    def assign(self) -> None:
        """Decide again which watch each pool belongs to; called when guards come and go."""
        self.measure()
        self.direct.watch = self.process_watch
        for record in list(self.pools.values()):
            before, record.watch = record.watch, self.watch_for(record.pool(), record.library)
            if before is not None and record.watch is not None and before is not record.watch:
                for _ in record.holds():  # counted by the guard that judges it
                    next(before.forgotten)
                    next(record.watch.acquired)

    def switch_off(self, library: str) -> None:
        """An integration fails again and again: from now on its hooks find nobody who watches."""
        self.off.add(library)
        for hold in self.direct.holds():
            if hold.library == library:
                self.forget(hold)  # its end would not be seen any more
        self.assign()

    def watch_for(self, pool: object | None, library: str) -> Watch | None:
        """A pool given to ``watch()`` is judged by that guard alone, every other one by the process's guard."""
        if library in self.off:
            return None
        if pool is not None:
            for matches, watch in self.targets:
                if matches(pool):
                    return watch
        return self.process_watch

    def pool_of(self, pool: object) -> PoolRecord | None:
        """The record of a pool that has been seen before."""
        marked = mark_of(pool, PoolRecord)
        if marked is not None:
            return marked
        record = self.pools.get(id(pool))
        if record is not None and (ref := record.ref) is not None and ref() is pool:
            return record
        return None

    def add_pool(
        self,
        pool: object,
        *,
        name: str,
        library: str,
        probe: PoolProbe,
        created: bool,
        reference: type[PoolRef] = PoolRef,
        marked: bool = True,
    ) -> PoolRecord:
        """Begin to know a pool. With `created` it is being created right now, three frames up: remember where.

        A pool that compares its attributes with those of others is not `marked`: it is found by its identity.
        """
        record = PoolRecord(name=name, library=library, probe=probe, watch=self.watch_for(pool, library))
        ref = reference.to(pool, self.signals.put)
        ref.record = record
        record.ref = ref
        record.born = self.clock.monotonic()
        record.serial = next(self._serials)  # pools and holds share one count: what came first can be told
        if created:
            record.created, record.created_stack = self.recorder.capture_all(3)
            record.baseline = 0  # of a pool that we have seen from its beginning, everything that is out is known
        self.pools[id(pool)] = record
        if marked:
            mark(pool, record)
        self.wake()
        return record

    # ------------------------------------------------------------------ server connections

    def wire_of(self, connection: object) -> Wire | None:
        """The wire of a connection object that has been seen before."""
        marked = mark_of(connection, Wire)
        if marked is not None:
            return marked
        wire = self.wires.get(id(connection))
        if wire is not None and (ref := wire.ref) is not None and ref() is connection:
            return wire
        return None

    def dying_wire_of(self, connection: object) -> Wire | None:
        """Like `wire_of`, also for a connection that is being collected: whose weak references are dead already when
        a finalizer in the same cycle of garbage closes it, or gives it back."""
        marked = mark_of(connection, Wire)
        if marked is not None:
            return marked
        wire = self.wires.get(id(connection))
        alive = wire.connection() if wire is not None else None
        return wire if alive is None or alive is connection else None

    def add_wire(self, connection: object, driver: Driver, pool: PoolRecord | None = None) -> Wire:
        """Begin to know a server connection, opened on behalf of `pool` if one is given."""
        wire = Wire(id(connection), driver)
        try:
            ref = WireRef(connection, self.signals.put)
        except TypeError:  # sqlite3.Connection and some C drivers know no weak references: known by their pool alone
            wire.pool = pool
            return wire
        ref.wire = wire
        wire.ref = ref
        self.wires[wire.key] = wire
        mark(connection, wire)
        if pool is not None:
            self.give_to_pool(wire, pool)
        self.wake()
        return wire

    def give_to_pool(self, wire: Wire, pool: PoolRecord) -> None:
        """`wire` was opened on behalf of `pool`: what looked like a hold on it so far was the pool's own."""
        if wire.pool is not None and wire.pool is not pool:
            wire.pool.wires.pop(wire.key, None)
        wire.pool = pool
        pool.wires[wire.key] = wire
        hold = wire.hold
        if hold is not None and hold.pool.direct:
            wire.hold = None
            self._end(hold, End.FORGOTTEN)
        elif hold is not None and hold.pool is not pool:
            # SQLAlchemy over psycopg_pool: the inner checkout lives as long as the outer pool wants.
            hold.covered = True

    def wire_closed(self, wire: Wire) -> None:
        """Its connection was closed by a call. A direct hold ends with that; a checkout still has to be returned."""
        if wire.closed_at is None:
            wire.closed_at = self.clock.monotonic()
        pool = wire.pool
        if pool is not None:
            pool.wires.pop(wire.key, None)
        hold = wire.hold
        if hold is None:
            return
        if hold.is_checkout:
            self.signals.put(Changed(hold))
        else:
            self.released(hold)

    # ------------------------------------------------------------------ acquire and release

    def begin(self, record: PoolRecord) -> Watch | None:
        """An acquire from the pool begins. None if nobody watches it.

        Raises `PendingLeaks` with what ``on_leak="raise"`` has not said yet.
        """
        watch = record.watch
        if watch is None:
            return None
        if watch.pending:
            pending, watch.pending = watch.pending, []
            raise PendingLeaks(pending)
        if (record.open or record.aged) and not record.nestable:
            owner = self.owners.current()
            if owner.open:
                self._nested(record, owner)
        next(record.begun)
        if self.closely:
            self.owners.current().began_at = self._monotonic()
        return watch

    def _nested(self, record: PoolRecord, owner: OwnerRecord) -> None:
        # The pool is asked for its capacity here, not on every acquire: nested acquires are rare.
        pool = record.pool()
        if pool is None or record.probe is None or record.probe.capacity(pool) is None:
            return
        outer, rules = None, self.recorder.rules
        for hold in _newest_of(record, owner):
            # What is kept on purpose, or since an earlier job of this thread, must not hide what is nested now.
            is_mine = owner.task_ref is not None or is_of_this_job(hold.frames, rules, 2)
            if is_mine and hold.allowed is None:
                outer = hold
        if outer is None:
            return
        site, frames = self.recorder.capture(2)
        attempt = new_hold(
            next(self._serials),
            record,
            None,
            None,
            outer.operation,
            owner,
            current_scope.get(),
            self.clock.monotonic(),
            site,
            frames,
        )
        if self.trace is not None:
            attempt.trace = self.trace()
        self.signals.put(Nested(attempt, outer))

    def acquired(
        self,
        record: PoolRecord,
        watch: Watch,
        wire: Wire | None,
        handle: Callable[[], object | None] | None,
        operation: str,
        skip: int,
    ) -> HoldRecord:
        """A connection has been handed out. `skip` is how many frames up the application's call stands."""
        next(record.finished)
        acquirer = owner = self.owners.current()
        if record.direct:
            site, frames = self.recorder.capture_all(skip)
        else:
            site, frames = self.recorder.capture(skip)
        if site is None and frames and owner.task_ref is not None:
            owner, site, frames = self._delivered(owner, frames)
        # What follows is written out, not called: each call would cost as much as all the attributes.
        hold = HoldRecord()
        hold.serial = serial = next(self._serials)
        hold.pool = record
        hold.wire = wire
        hold.handle = handle
        hold.operation = operation
        hold.owner = owner
        hold.scope = current_scope.get()
        hold.acquired_at = self._monotonic()
        hold.site = site
        hold.frames = frames
        hold.last_used = hold.last_statement = hold.ended = None
        hold.statements = 0
        if wire is not None:
            if wire.hold is not None:
                self._cover(hold, wire.hold)
            wire.hold = hold
        record.open[serial] = hold
        owner.open[serial] = hold
        next(watch.acquired)
        if self.closely:
            self._measure_acquire(hold, acquirer)
        return hold

    def measure(self) -> None:
        """Decide again whether every acquire and release is measured; called when exporters and guards come and go."""
        self.learning = any(watch.settings.learns for watch in self._watches())
        self.closely = self.learning or self.meter is not None or self.trace is not None

    def _watches(self) -> Iterator[Watch]:
        if self.process_watch is not None:
            yield self.process_watch
        yield from (watch for _, watch in self.targets)

    def _measure_acquire(self, hold: HoldRecord, acquirer: OwnerRecord) -> None:
        if self.trace is not None:
            hold.trace = self.trace()
        if self.meter is not None and hold.is_checkout:
            self.meter.waited(hold.pool, hold.acquired_at - acquirer.began_at)

    def _measure_release(self, hold: HoldRecord) -> None:
        seconds = self._monotonic() - hold.acquired_at
        if self.meter is not None:
            self.meter.used(hold.pool, seconds)
        if self.learning and hold.site is not None and (watch := hold.pool.watch) is not None and watch.settings.learns:
            hold.site.lasted(seconds)

    def _delivered(self, owner: OwnerRecord, frames: RawStack) -> tuple[OwnerRecord, SitePoint | None, RawStack]:
        """The task has no frame of the application: it acquires for the one that waits for it, if that can be seen."""
        task = owner.task
        parent = awaiter_of(task) if task is not None else None
        if parent is None:
            return owner, None, frames
        frames += raw_stack_of_task(parent)
        site = self.recorder.point_in(frames)
        return (owner if site is None else self.owners.of(parent)), site, frames

    def _cover(self, hold: HoldRecord, beneath: HoldRecord) -> None:
        if beneath.pool is hold.pool or beneath.pool.direct:
            # The same pool hands the connection out again, or a pool's own connection is seen as such only now: the
            # earlier hold ended in a way that no hook showed.
            self._end(beneath, End.FORGOTTEN if beneath.pool.direct else End.RELEASED)
        else:
            beneath.covered = True
            hold.beneath = beneath

    def released(self, hold: HoldRecord) -> None:
        """The hold ends well. Idempotent. Called before the pool gets the connection back, so that the next acquire
        of the same connection, in another thread, cannot come in between."""
        if hold.ended is None:
            # `_end()` once more, written out: this is the hot path.
            hold.ended = _RELEASED
            serial, pool, wire = hold.serial, hold.pool, hold.wire
            if pool.open.pop(serial, None) is None:
                pool.aged.pop(serial, None)
            hold.owner.open.pop(serial, None)
            if wire is not None and wire.hold is hold:
                wire.hold = hold.beneath
            if self.closely and hold.is_checkout:
                self._measure_release(hold)
            if hold.suspected:
                self.signals.put(Returned(hold, self.clock.monotonic()))

    def restore(self, hold: HoldRecord) -> None:
        """The release failed (the pool refused the connection): the hold goes on."""
        hold.ended = None
        hold.pool.open[hold.serial] = hold
        hold.owner.open[hold.serial] = hold
        if hold.wire is not None:
            hold.wire.hold = hold

    def collected(self, hold: HoldRecord, *, healed: bool) -> None:
        """The handle was garbage-collected while held. Runs inside finalizers."""
        if self.end_collected(hold):
            self.signals.put(Collected(hold, healed))

    def end_collected(self, hold: HoldRecord) -> bool:
        """The hold ends by garbage collection; False if it had ended before."""
        if hold.ended is not None:
            return False
        self._end(hold, End.COLLECTED)
        wire = hold.wire
        if wire is not None and wire.hold is hold:
            wire.hold = hold.beneath
        return True

    def forget(self, hold: HoldRecord) -> None:
        """It was no hold of the application's after all."""
        if hold.ended is None:
            self._end(hold, End.FORGOTTEN)
            if hold.wire is not None and hold.wire.hold is hold:
                hold.wire.hold = hold.beneath

    def _end(self, hold: HoldRecord, end: End) -> None:
        # `ended` first: the watchdog, which moves holds from `open` to `aged`, looks at it after its move.
        hold.ended = end
        serial, pool = hold.serial, hold.pool
        if pool.open.pop(serial, None) is None:
            pool.aged.pop(serial, None)
        hold.owner.open.pop(serial, None)
        if end is _FORGOTTEN and pool.watch is not None:
            next(pool.watch.forgotten)

    # ------------------------------------------------------------------ use

    def used(self, wire: Wire) -> None:
        """The connection has just been used: a live thread or task that uses it becomes its owner."""
        hold = wire.hold
        if hold is None:
            return
        hold.last_used = self._monotonic()
        owner = self.owners.current()
        if owner is not hold.owner:
            self._adopt(hold, owner)

    def _adopt(self, hold: HoldRecord, owner: OwnerRecord) -> None:
        if hold.handle is not None and hold.handle() is None:
            return  # its pool rolls back what the collector found, in whatever thread that came by
        now = self.clock.monotonic()
        lenders = (*hold.lenders, hold.owner)
        hold.lenders = tuple(one for one in lenders if one is not owner and one.look(now) is None)[:LENDERS_LIMIT]
        hold.touched = True
        self._move(hold, owner)
        # After the move: a young hold is scheduled at its first look, with the owner that it has by then.
        if hold.serial in hold.pool.aged and hold.ended is None:
            self.signals.put(Changed(hold))

    def hand_back(self, hold: HoldRecord, now: float) -> OwnerRecord | None:
        """Its owner has ended: whoever lent it the connection and still lives has it back. None if there is nobody."""
        lenders = hold.lenders = tuple(one for one in hold.lenders if one.look(now) is None)
        if not lenders:
            return None
        self._move(hold, lenders[-1])
        return lenders[-1]

    def _move(self, hold: HoldRecord, owner: OwnerRecord) -> None:
        hold.owner.open.pop(hold.serial, None)
        hold.owner = owner
        owner.open[hold.serial] = hold
        if hold.ended is not None or hold.owner is not owner:  # released, or moved on, by another thread meanwhile
            owner.open.pop(hold.serial, None)

    def statement(self, wire: Wire, statement: object) -> None:
        """A statement is about to run on the connection. Only its text is kept, never its parameters."""
        hold = wire.hold
        if hold is not None:
            hold.statements += 1
            hold.last_statement = statement

    # ------------------------------------------------------------------ looking

    def holds(self) -> list[HoldRecord]:
        """Everything that is held and judged now, oldest first."""
        found = [hold for record in self.records() for hold in record.holds() if not hold.covered]
        return sorted(found, key=BY_SERIAL)

    def records(self) -> Iterator[PoolRecord]:
        """The direct connections, then every pool."""
        yield self.direct
        yield from list(self.pools.values())

    def last_serial(self) -> int:
        """The number of the newest hold: whatever is acquired later has a higher one."""
        return int(repr(self._serials)[6:-1]) - 1

    def drop_pool(self, record: PoolRecord) -> None:
        """Forget a pool that is gone, unless another object has taken over its identity meanwhile."""
        for key in [key for key, found in list(self.pools.items()) if found is record]:
            self.pools.pop(key, None)

    def drop_wire(self, wire: Wire) -> None:
        """Forget a server connection that is gone."""
        if self.wires.get(wire.key) is wire:
            self.wires.pop(wire.key, None)


def _newest_of(record: PoolRecord, owner: OwnerRecord) -> list[HoldRecord]:
    """What the owner holds of this pool, the newest first: not all of it, because an owner may hold thousands."""
    while True:
        try:
            in_hand = (hold for hold in reversed(owner.open.values()) if hold.pool is record and _is_in_hand(hold))
            return list(itertools.islice(in_hand, NESTED_LIMIT))
        except RuntimeError:  # another thread has given one back meanwhile: look again
            continue


def _is_in_hand(hold: HoldRecord) -> bool:
    # A handle that is dead already was dropped: its signal is on its way, and nobody waits for himself through it.
    alive = hold.is_checkout and not hold.covered and (hold.handle is None or hold.handle() is not None)
    return alive and not is_abandoned(hold)
