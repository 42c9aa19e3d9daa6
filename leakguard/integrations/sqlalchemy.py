"""SQLAlchemy 2.0 and 2.1: every pool class, sync and async engines, ORM sessions.

Acquires are seen at ``Pool.connect``, through which everything passes, sync and async, also a connection that reopens
itself after ``invalidate()``; it is also the only place that sees a ``TimeoutError``. Everything else comes from the
class-level pool events, which work for engines made earlier and survive ``dispose()``. No event handler here raises:
a listener that raises in ``checkin`` would itself lose the slot.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from leakguard.integrations.base import Runtime, Version, released_after_all, unrecorded
from leakguard.integrations.drivers import wire_below
from leakguard.judging.refusals import refusal_of
from leakguard.patching import Patches, dressed, followed
from leakguard.register.records import Account, HoldRecord, PoolRecord, Watch, Wire
from leakguard.register.tracker import PendingLeaks, Tracker

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection

_LIBRARY: Final = "sqlalchemy"


class Slot:
    """A place in a pool: SQLAlchemy's connection record, the server connection in it, and who holds it."""

    __slots__ = ("hold", "ref", "wire")

    def __init__(self, entry: ConnectionPoolEntry) -> None:
        self.ref = weakref.ref(entry)
        self.wire: Wire | None = None
        self.hold: HoldRecord | None = None


class PoolProbe:
    """What a SQLAlchemy pool says of itself."""

    def capacity(self, pool: object) -> int | None:
        """``pool_size + max_overflow``; None for the classes and settings without a limit."""
        from sqlalchemy.pool import AssertionPool, QueuePool

        if isinstance(pool, AssertionPool):
            return 1
        if not isinstance(pool, QueuePool) or pool._max_overflow < 0:
            return None
        return pool.size() + pool._max_overflow

    def account(self, pool: object) -> Account | None:
        """``checkedout()`` of a queue pool; the others do not count. It tells of a return when that is done."""
        from sqlalchemy.pool import QueuePool

        return Account(out=pool.checkedout()) if isinstance(pool, QueuePool) else None

    def close_loses_slot(self) -> bool:
        """SQLAlchemy notices at the next use that a connection was closed behind its back."""
        return False

    def abandoned(self, pool: object, handle: object) -> bool | None:
        """The pool keeps no reference to a checkout: its end shows by itself."""
        return None


class SQLAlchemyIntegration:
    """The pools below SQLAlchemy's engines."""

    module = "sqlalchemy"
    versions = Version(lowest=(2, 0), below=(2, 2))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the pools' public methods and listen to the pools' events."""
        from sqlalchemy import event, pool
        from sqlalchemy.engine import Engine
        from sqlalchemy.engine.interfaces import Dialect

        seen = _Seen(runtime, patches)
        patches.on_undo(seen.forget)
        for cls in (pool.Pool, pool.SingletonThreadPool):
            patches.replace(cls, "connect", lambda original: _connect(original, seen))
        patches.replace(pool.Pool, "__init__", lambda original: _created(original, seen))
        # Private, but the same in 2.0 and 2.1. A queue pool counts what it closes as out until the server has answered.
        if "_close_connection" in vars(pool.Pool):
            patches.replace(pool.Pool, "_close_connection", lambda original: _closing(original, seen))
        for subclass in _subclasses(pool.Pool):
            if "recreate" in vars(subclass):
                patches.replace(subclass, "recreate", lambda original: _recreated(original, seen))
        for name in ("connect", "checkin", "close", "detach", "close_detached"):
            handler = getattr(seen, name)
            event.listen(pool.Pool, name, handler)
            patches.on_undo(lambda name=name, handler=handler: _stop_listening(pool.Pool, name, handler))  # type: ignore[misc]
        _listen(patches, Engine, Dialect, {"handle_error": seen.handle_error})


def is_pool(candidate: object) -> bool:
    """Whether `candidate` is a pool. Only called once SQLAlchemy has been imported."""
    from sqlalchemy.pool import Pool

    return isinstance(candidate, Pool)


def engine_of(candidate: object) -> object | None:
    """The (sync) engine that `candidate` is or stands for; None if it is none."""
    from sqlalchemy.engine import Engine

    engine = getattr(candidate, "sync_engine", candidate)
    return engine if isinstance(engine, Engine) else None


def matcher(engine: object) -> Callable[[object], bool]:
    """Whether a pool is the engine's present one: ``dispose()`` gives an engine a new pool. Holds the engine weakly."""
    ref = weakref.ref(engine)

    def matches(pool: object) -> bool:
        alive = ref()
        return alive is not None and cast("Any", alive).pool is pool

    return matches


def _subclasses(cls: type) -> list[type]:
    found: list[type] = cls.__subclasses__()
    for sub in found:
        found += _subclasses(sub)
    return list(dict.fromkeys(found))


def _listen(patches: Patches, target: type, flagged: type, handlers: dict[str, Callable[..., None]]) -> None:
    """Listen on a class. SQLAlchemy sets ``_has_events`` on it and never takes that back: undo does."""
    from sqlalchemy import event

    before = vars(flagged).get("_has_events")
    for name, handler in handlers.items():
        event.listen(target, name, handler)

    def undo() -> None:
        for name, handler in handlers.items():
            _stop_listening(target, name, handler)
        if not _has_listeners(flagged):
            if before is None:
                if "_has_events" in vars(flagged):
                    del flagged._has_events  # type: ignore[attr-defined]
            else:
                flagged._has_events = before  # type: ignore[attr-defined]

    patches.on_undo(undo)


def _stop_listening(target: type, name: str, handler: Callable[..., None]) -> None:
    from sqlalchemy import event

    if event.contains(target, name, handler):  # else somebody cleared all listeners, as SQLAlchemy's own tests do
        event.remove(target, name, handler)


def _has_listeners(flagged: type) -> bool:
    dispatch = cast("Any", flagged).dispatch
    return any(getattr(dispatch, name)._clslevel.get(flagged) for name in dispatch._event_names)


class _Seen:
    """The state of the integration, and its event handlers."""

    def __init__(self, runtime: Runtime, patches: Patches) -> None:
        self.runtime = runtime
        self.tracker: Tracker = runtime.tracker
        self.slots: dict[int, Slot] = {}
        self._patches = patches
        self._listening = False
        self._numbers: dict[str, int] = {}

    # ------------------------------------------------------------------ pools

    def adopt(self, pool: Pool, *, created: bool) -> PoolRecord:
        """Begin to know a pool."""
        from sqlalchemy.pool import SingletonThreadPool, StaticPool

        record = self.tracker.add_pool(
            pool, name=self._name(pool), library=_LIBRARY, probe=PoolProbe(), created=created, marked=False
        )
        # One connection for a whole thread, or for everybody: to acquire it again blocks nobody.
        record.nestable = isinstance(pool, (SingletonThreadPool, StaticPool))
        return record

    def _name(self, pool: Pool) -> str:
        given = getattr(pool, "logging_name", None)
        if given:
            return str(given)
        kind = type(pool).__name__
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        return f"{kind}-{self._numbers[kind]}"

    def record_of(self, pool: Pool) -> PoolRecord:
        """The record of a pool, also of one that is older than leakguard."""
        return self.tracker.pool_of(pool) or self.adopt(pool, created=False)

    def slot_of(self, entry: ConnectionPoolEntry | None) -> Slot | None:
        """The slot of a connection record that has been seen before; a detached connection has no record."""
        slot: Slot | None = getattr(entry, "_leakguard", None)
        return slot

    # ------------------------------------------------------------------ acquire

    def begin_slowly(self, pool: Pool, error: Exception) -> tuple[PoolRecord, Watch] | tuple[None, None]:
        """What the hot path does not do: a pool that was not seen before, leaks to raise, errors of our own."""
        try:
            if isinstance(error, PendingLeaks):
                leaks = error.args[0]
            else:
                if self.tracker.pool_of(pool) is not None:
                    raise error
                record = self.adopt(pool, created=False)
                watch = self.tracker.begin(record)
                return (None, None) if watch is None else (record, watch)
        except PendingLeaks as pending:
            leaks = pending.args[0]
        except Exception as failure:
            self.runtime.internal_error("sqlalchemy.connect", failure)
            return None, None
        self.runtime.raise_pending(leaks)
        return None, None

    def acquired_slowly(
        self, record: PoolRecord, watch: Watch, fairy: PoolProxiedConnection, error: Exception | None
    ) -> None:
        """What the hot path does not do: a connection record that was not seen before or that has a hold already, and
        errors of our own."""
        slot = None
        try:
            entry: ConnectionPoolEntry = cast("Any", fairy)._connection_record  # the same in 2.0 and 2.1
            slot = self.slot_of(entry)
            if slot is None:
                slot = self._new_slot(entry, record, fairy)
            elif error is not None:
                raise error
            held = slot.hold
            if held is not None and held.ended is None:
                if held.handle is not None and held.handle() is fairy:
                    next(record.finished)
                    return  # SingletonThreadPool: the same checkout once more
                self.tracker.released(held)  # StaticPool: several fairies share one record and tell of one return
            slot.hold = self.tracker.acquired(record, watch, slot.wire, weakref.ref(fairy), "connect", 3)
        except Exception as failure:
            unrecorded(self.runtime, record, slot.wire if slot is not None else None)
            self.runtime.internal_error("sqlalchemy.connect", failure)

    def _new_slot(self, entry: ConnectionPoolEntry, record: PoolRecord, fairy: PoolProxiedConnection) -> Slot:
        slot = self._keep(Slot(entry), entry)
        connection = fairy.driver_connection
        if connection is not None:
            slot.wire = self._wire(connection, record)
        return slot

    def _keep(self, slot: Slot, entry: ConnectionPoolEntry) -> Slot:
        # On the record itself, where the hot path finds it; and in the register, for whoever has to clean up.
        self.slots[id(entry)] = slot
        entry._leakguard = slot  # type: ignore[attr-defined]
        return slot

    def _drop(self, entry: ConnectionPoolEntry) -> None:
        self.slots.pop(id(entry), None)
        vars(entry).pop("_leakguard", None)

    def forget(self) -> None:
        """Leave nothing behind on the connection records."""
        for slot in list(self.slots.values()):
            entry = slot.ref()
            if entry is not None:
                self._drop(entry)
        self.slots.clear()

    def _wire(self, connection: object, record: PoolRecord) -> Wire:
        wire = wire_below(self.tracker, connection)
        if wire.pool is not record:
            self.tracker.give_to_pool(wire, record)
        if not wire.tells and not self._listening:
            self._listen_to_statements()
        return wire

    # ------------------------------------------------------------------ events of the pool

    def connect(self, dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
        """A server connection was opened for the pool: whatever looked like a hold on it so far was the pool's own."""
        if _LIBRARY in self.tracker.off:
            return
        try:
            pool = entry._ConnectionRecord__pool  # type: ignore[attr-defined]
            slot = Slot(entry)
            connection = entry.driver_connection
            if connection is not None:
                slot.wire = self._wire(connection, self.record_of(pool))
            previous = self.slot_of(entry)
            if previous is not None:
                slot.hold = previous.hold
            self._keep(slot, entry)
            # SQLAlchemy writes the time down right before it connects: by the wall clock, which may be set meanwhile.
            began: float | None = getattr(entry, "starttime", None)
            if self.tracker.meter is not None and began:
                self.tracker.meter.created(self.record_of(pool), max(0.0, time.time() - began))
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.connect", error)

    def checkin(self, dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
        """The pool is about to take a connection back; with a dead handle, because the collector found it."""
        hold = None
        try:
            slot: Slot | None = getattr(entry, "_leakguard", None)
            if slot is None:
                return
            hold = slot.hold
            if hold is not None:
                slot.hold = None
                if hold.handle is not None and hold.handle() is None:
                    self.tracker.collected(hold, healed=True)
                else:
                    self.tracker.released(hold)
            if dbapi_connection is None:
                self._drop(entry)
        except Exception as error:
            released_after_all(self.runtime, hold, error)
            self.runtime.internal_error("sqlalchemy.checkin", error)

    def close(self, dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
        """The pool closes a server connection. A null pool forgets its record with that."""
        try:
            slot = self.slot_of(entry)
            if slot is None:
                return
            if slot.wire is not None:
                self.tracker.wire_closed(slot.wire)
                slot.wire = None
            if slot.hold is None:
                self._drop(entry)
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.close", error)

    def detach(self, dbapi_connection: object, entry: ConnectionPoolEntry) -> None:
        """The connection leaves its pool: for its user who closes it himself, or, collected in an async engine,
        because nothing else can be done with it there."""
        try:
            slot = self.slot_of(entry)
            if slot is None:
                return
            self._drop(entry)
            hold, wire = slot.hold, slot.wire
            if wire is not None and wire.pool is not None:
                wire.pool.wires.pop(wire.key, None)
                wire.pool = None
            if hold is None or hold.ended is not None:
                return
            if hold.handle is not None and hold.handle() is None:
                self.tracker.collected(hold, healed=True)
            elif wire is None or wire.ref is None:
                self.tracker.released(hold)  # a driver without weak references: nobody could tell its end
            else:
                # From here on the fairy's end tells nothing (sqlalchemy#13570): the driver's connection does.
                hold.detached = True
                hold.handle = wire.ref
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.detach", error)

    def close_detached(self, dbapi_connection: object) -> None:
        """A detached connection was closed."""
        try:
            connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
            wire = self.tracker.wire_of(connection)
            if wire is not None:
                self.tracker.wire_closed(wire)
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.close_detached", error)

    # ------------------------------------------------------------------ statements, for drivers that are not patched

    def _listen_to_statements(self) -> None:
        from sqlalchemy.engine import Engine

        self._listening = True
        handlers: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self.before_cursor_execute,
            "after_cursor_execute": self.after_cursor_execute,
        }
        _listen(self._patches, Engine, Engine, handlers)

    def _hold_of(self, connection: Any) -> HoldRecord | None:
        fairy = connection._dbapi_connection
        slot = self.slot_of(fairy._connection_record) if fairy is not None else None
        hold = slot.hold if slot is not None else None
        return None if hold is None or hold.wire is None or hold.wire.tells else hold

    def before_cursor_execute(self, connection: Any, cursor: object, statement: str, *_: object) -> None:
        """A statement begins: until it ends, the hold is active."""
        try:
            hold = self._hold_of(connection)
            if hold is not None and hold.wire is not None:
                self.tracker.statement(hold.wire, statement)
                hold.active_since = self.tracker.clock.monotonic()
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.execute", error)

    def after_cursor_execute(self, connection: Any, *_: object) -> None:
        """A statement has ended well."""
        try:
            hold = self._hold_of(connection)
            if hold is not None and hold.wire is not None:
                hold.active_since = None
                self.tracker.used(hold.wire)
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.execute", error)

    def handle_error(self, context: ExceptionContext) -> None:
        """A statement failed, or, without a connection, a connect did: was it refused for want of a slot?"""
        try:
            if context.connection is not None:
                self.after_cursor_execute(context.connection)
                return
            cause = refusal_of(context.original_exception)
            if cause is None or context.engine is None:
                return
            record = self.record_of(context.engine.pool)
            if record.watch is not None:
                error = context.sqlalchemy_exception or context.original_exception
                held = self.tracker.holds()
                self.runtime.exhausted(error, watch=record.watch, pool=record, cause=cause, holds=held)
        except Exception as error:
            self.runtime.internal_error("sqlalchemy.handle_error", error)

    def failed(self, record: PoolRecord, watch: Watch, error: BaseException) -> None:
        """``Pool.connect`` raised: the pool's limit was reached, or the server refused."""
        try:
            next(record.finished)
            from sqlalchemy.exc import TimeoutError as PoolTimeoutError

            if isinstance(error, PoolTimeoutError):
                self.runtime.exhausted(error, watch=watch, pool=record, cause="pool", holds=record.holds())
            elif isinstance(error, Exception) and (cause := refusal_of(error)) is not None:
                held = self.tracker.holds()
                self.runtime.exhausted(error, watch=watch, pool=record, cause=cause, holds=held)
        except Exception as failure:
            self.runtime.internal_error("sqlalchemy.connect", failure)


def _connect(original: Callable[..., Any], seen: _Seen) -> Callable[..., Any]:
    tracker, ref = seen.tracker, weakref.ref

    def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            record: Any = tracker.pools[id(self)]
            if record.ref() is not self:  # another pool's, which has gone
                raise KeyError
            watch = tracker.begin(record)
        except Exception as error:
            record, watch = seen.begin_slowly(self, error)
        if watch is None:
            return original(self, *args, **kwargs)
        try:
            fairy = original(self, *args, **kwargs) if args or kwargs else original(self)
        except BaseException as error:
            seen.failed(record, watch, error)
            raise
        try:
            slot = fairy._connection_record._leakguard
            if slot.hold is None:
                slot.hold = tracker.acquired(record, watch, slot.wire, ref(fairy), "connect", 2)
            else:
                seen.acquired_slowly(record, watch, fairy, None)
        except Exception as error:
            seen.acquired_slowly(record, watch, fairy, error)
        return fairy

    return dressed(connect, original)


def _created(original: Callable[..., None], seen: _Seen) -> Callable[..., None]:
    def created(pool: Any) -> None:
        try:
            seen.adopt(pool, created=True)
        except Exception as error:
            seen.runtime.internal_error("sqlalchemy.create", error)

    return followed(original, created)


def _closing(original: Callable[..., None], seen: _Seen) -> Callable[..., None]:
    def _close_connection(self: object, *args: Any, **kwargs: Any) -> None:
        record = None
        try:
            record = seen.tracker.pool_of(self)
            if record is not None:
                next(record.closes_begun)
        except Exception as error:
            seen.runtime.internal_error("sqlalchemy.close", error)
        try:
            original(self, *args, **kwargs)
        finally:
            if record is not None:
                next(record.closes_finished)

    return dressed(_close_connection, original)


def _recreated(original: Callable[..., Any], seen: _Seen) -> Callable[..., Any]:
    """``Engine.dispose()`` replaces a pool by its like: same place of birth, same name, same guard."""

    def recreate(self: Any) -> Any:
        successor = original(self)
        try:
            old, new = seen.record_of(self), seen.record_of(successor)
            old.disposed = True  # connections that are out come home to it, and go with it: that is SQLAlchemy's design
            new.name, new.watch = old.name, old.watch
            new.created, new.created_stack = old.created, old.created_stack
        except Exception as error:
            seen.runtime.internal_error("sqlalchemy.recreate", error)
        return successor

    return dressed(recreate, original)
