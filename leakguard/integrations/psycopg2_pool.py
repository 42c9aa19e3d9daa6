"""psycopg2.pool: SimpleConnectionPool, ThreadedConnectionPool, and whatever else derives from AbstractConnectionPool.

The work is done in three private methods of the abstract class. Subclasses call them, or have them under another name:
``SimpleConnectionPool.getconn`` *is* ``AbstractConnectionPool._getconn``. So each is patched under every name it has.
The pool refers strongly to what it has handed out: a checkout that nobody returns is never collected, and is told from
one that somebody still holds by its reference count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from leakguard.integrations.base import Runtime, Version, opening_for
from leakguard.integrations.drivers import wire_below
from leakguard.patching import Patches, dressed
from leakguard.register.reachability import is_abandoned, owners_of
from leakguard.register.records import Account, HoldRecord, PoolRecord, Watch
from leakguard.register.tracker import PendingLeaks

_LIBRARY: Final = "psycopg2_pool"


class PoolProbe:
    """What a pool says of itself: by its dictionary of what is out, and without its lock."""

    def capacity(self, pool: Any) -> int | None:
        """``maxconn``."""
        return int(pool.maxconn)

    def account(self, pool: Any) -> Account | None:
        """What is in use; that proves nothing once the pool is closed."""
        return None if pool.closed else Account(out=len(pool._used), home=len(pool._pool))

    def close_loses_slot(self) -> bool:
        """``conn.close()`` on a checkout leaves it among those in use until it is put back."""
        return True

    def abandoned(self, pool: Any, handle: Callable[[], object | None]) -> bool | None:
        """By its reference count. None for one with a key of the application's: with that, anybody may get it again."""
        key = pool._rused.get(id(handle()))
        if type(key) is not int or not 0 < key <= pool._keys:  # else it is one that the pool made itself
            return None
        owners = owners_of(handle)
        return None if owners is None else owners == 1


class Psycopg2PoolIntegration:
    """The pools of psycopg2."""

    module = "psycopg2.pool"
    versions = Version(lowest=(2, 9), below=(3,))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the abstract class, and the subclasses that have its methods under names of their own."""
        from psycopg2.pool import AbstractConnectionPool, PoolError

        pools = _Pools(runtime, PoolError)
        makers: dict[object, Callable[[Any], Any]] = {
            AbstractConnectionPool.__init__: pools.creating,
            AbstractConnectionPool._connect: pools.connecting,
            AbstractConnectionPool._getconn: pools.getting,
            AbstractConnectionPool._putconn: pools.putting,
            AbstractConnectionPool._closeall: pools.closing,
        }
        for cls in _with_subclasses(AbstractConnectionPool):
            for name, value in list(vars(cls).items()):
                make = makers.get(value) if callable(value) else None
                if make is not None:
                    patches.replace(cls, name, make)


def is_pool(candidate: object) -> bool:
    """Whether `candidate` is one of psycopg2's pools. Only called once psycopg2.pool has been imported."""
    from psycopg2.pool import AbstractConnectionPool

    return isinstance(candidate, AbstractConnectionPool)


def _with_subclasses(cls: type) -> Iterator[type]:
    yield cls
    subclasses: list[type] = cls.__subclasses__()
    for subclass in subclasses:
        yield from _with_subclasses(subclass)


class _Pools:
    """The methods that stand in for the pools' own."""

    def __init__(self, runtime: Runtime, pool_error: type[Exception]) -> None:
        self._runtime = runtime
        self._tracker = runtime.tracker
        self._pool_error = pool_error
        self._numbers: dict[str, int] = {}

    # ------------------------------------------------------------------ pools

    def creating(self, original: Callable[..., None]) -> Callable[..., None]:
        """``__init__``: it opens connections itself, so the pool is known before it is made."""

        def __init__(pool: Any, *args: Any, **kwargs: Any) -> None:
            record = self._adopt(pool, created=True)
            try:
                original(pool, *args, **kwargs)
            except BaseException:
                if record is not None:
                    record.disposed = True  # nobody gets to see it: what it has opened goes with it
                raise

        return dressed(__init__, original)

    def closing(self, original: Callable[..., None]) -> Callable[..., None]:
        """``closeall()``: it closes also what is out, and takes nothing back any more."""

        def closeall(pool: Any, *args: Any, **kwargs: Any) -> None:
            self._find_abandoned(pool)
            original(pool, *args, **kwargs)
            self._all_closed(pool)

        return dressed(closeall, original)

    def connecting(self, original: Callable[..., object]) -> Callable[..., object]:
        """``_connect``: what is opened in it is the pool's."""

        def _connect(pool: Any, *args: Any, **kwargs: Any) -> object:
            record = self._record_of(pool)
            token = opening_for.set(record)
            began = self._connect_begins(record)
            error: BaseException | None = None
            try:
                return original(pool, *args, **kwargs)
            except BaseException as failure:
                error = failure
                raise
            finally:
                opening_for.reset(token)
                self._connect_ends(record, began, error)

        return dressed(_connect, original)

    def _adopt(self, pool: object, *, created: bool) -> PoolRecord | None:
        try:
            kind = type(pool).__name__
            number = self._numbers[kind] = self._numbers.get(kind, 0) + 1
            name = f"{kind}-{number}"
            return self._tracker.add_pool(pool, name=name, library=_LIBRARY, probe=PoolProbe(), created=created)
        except Exception as error:
            self._failed("create", error)
            return None

    def _record_of(self, pool: object) -> PoolRecord | None:
        try:
            return self._tracker.pool_of(pool) or self._adopt(pool, created=False)
        except Exception as error:
            self._failed("connect", error)
            return None

    def _connect_begins(self, record: PoolRecord | None) -> float:
        if record is not None:
            next(record.connects_begun)
        return self._tracker.clock.monotonic()

    def _connect_ends(self, record: PoolRecord | None, began: float, error: BaseException | None) -> None:
        try:
            if record is None:
                return
            next(record.connects_finished)
            if error is None:
                record.error = None
                if self._tracker.meter is not None:
                    self._tracker.meter.created(record, self._tracker.clock.monotonic() - began)
            elif isinstance(error, Exception):
                record.error = str(error)
        except Exception as failure:
            self._failed("connect", failure)

    def _find_abandoned(self, pool: object) -> None:
        try:
            record = self._tracker.pool_of(pool)
            for hold in record.holds() if record is not None else ():
                if is_abandoned(hold):
                    self._tracker.collected(hold, healed=False)
        except Exception as error:
            self._failed("closeall", error)

    def _all_closed(self, pool: object) -> None:
        try:
            record = self._tracker.pool_of(pool)
            for hold in record.holds() if record is not None else ():
                self._tracker.released(hold)
        except Exception as error:
            self._failed("closeall", error)

    # ------------------------------------------------------------------ acquire and release

    def getting(self, original: Callable[..., object]) -> Callable[..., object]:
        """``getconn()``."""

        def getconn(pool: Any, *args: Any, **kwargs: Any) -> object:
            again = self._is_out(pool, *args, **kwargs)
            record, watch = (None, None) if again else self._begin(pool)
            if record is None or watch is None:
                connection = original(pool, *args, **kwargs)
                if again:
                    self._used(connection)
                return connection
            try:
                connection = original(pool, *args, **kwargs)
            except BaseException as error:
                self._refused(pool, record, watch, error)
                raise
            self._acquired(record, watch, connection)
            return connection

        return dressed(getconn, original)

    def putting(self, original: Callable[..., None]) -> Callable[..., None]:
        """``putconn()``."""

        def putconn(pool: Any, conn: Any = None, *args: Any, **kwargs: Any) -> None:
            hold = self._release(pool, conn)
            try:
                original(pool, conn, *args, **kwargs)
            except BaseException:
                self._keep(pool, conn, hold)
                raise

        return dressed(putconn, original)

    def _is_out(self, pool: Any, key: object = None, *_: object, **__: object) -> bool:
        """Whether somebody has got the connection of this key before: then he is given the same one again."""
        try:
            return key is not None and key in pool._used
        except Exception:  # a key that is no key: psycopg2 will say so
            return False

    def _begin(self, pool: object) -> tuple[PoolRecord, Watch] | tuple[None, None]:
        try:
            record = self._tracker.pool_of(pool) or self._adopt(pool, created=False)
            watch = self._tracker.begin(record) if record is not None else None
            return (None, None) if record is None or watch is None else (record, watch)
        except PendingLeaks as pending:
            leaks = pending.args[0]
        except Exception as error:
            self._failed("getconn", error)
            return None, None
        self._runtime.raise_pending(leaks)
        return None, None

    def _acquired(self, record: PoolRecord, watch: Watch, connection: object) -> None:
        try:
            wire = wire_below(self._tracker, connection)
            if wire.pool is not record:
                self._tracker.give_to_pool(wire, record)
            self._tracker.acquired(record, watch, wire, wire.ref, "getconn", 3)
        except Exception as error:
            self._failed("getconn", error)

    def _refused(self, pool: Any, record: PoolRecord, watch: Watch, error: BaseException) -> None:
        try:
            next(record.finished)
            # The same class says that the pool is closed; and a server that refuses is told of where it does.
            if isinstance(error, self._pool_error) and not pool.closed and len(pool._used) >= pool.maxconn:
                self._runtime.exhausted(error, watch=watch, pool=record, cause="pool", holds=record.holds())
        except Exception as failure:
            self._failed("getconn", failure)

    def _used(self, connection: object) -> None:
        try:
            wire = self._tracker.wire_of(connection)
            if wire is not None:
                self._tracker.used(wire)
        except Exception as error:
            self._failed("getconn", error)

    def _release(self, pool: object, connection: object) -> HoldRecord | None:
        """End the hold before the pool gets the connection: afterwards the next acquire may already have it."""
        try:
            wire, record = self._tracker.dying_wire_of(connection), self._tracker.pool_of(pool)
            hold = wire.hold if wire is not None else None
            while hold is not None and hold.pool is not record:
                hold = hold.beneath  # this one is an outer pool's
            if hold is not None:
                self._tracker.released(hold)
            return hold
        except Exception as error:
            self._failed("putconn", error)
            return None

    def _keep(self, pool: Any, connection: object, hold: HoldRecord | None) -> None:
        """The pool did not take it: it was not this pool's, or its server hung up while it was rolled back."""
        try:
            if hold is not None and not pool.closed and id(connection) in pool._rused:
                self._tracker.restore(hold)
        except Exception as error:
            self._failed("putconn", error)

    def _failed(self, where: str, error: BaseException) -> None:
        self._runtime.internal_error(f"{_LIBRARY}.{where}", error)
