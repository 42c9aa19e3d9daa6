"""psycopg_pool: ConnectionPool, NullConnectionPool and their async twins.

Everything an application takes and gives back goes through ``getconn`` and ``putconn``, also ``connection()`` and
``close_returns``; the null pools inherit both. The pool itself never notices a checkout that nobody returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from leakguard.integrations.base import Runtime, Version, opening_for
from leakguard.integrations.drivers import wire_below
from leakguard.patching import Patches, dressed
from leakguard.records import HoldRecord, PoolRecord, Watch
from leakguard.refusals import refusal_in
from leakguard.tracker import PendingLeaks

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    Pool = ConnectionPool[Any] | AsyncConnectionPool[Any]  # of any connection class

_LIBRARY = "psycopg_pool"


class PoolProbe:
    """What a psycopg pool says of itself, without its lock."""

    def capacity(self, pool: object) -> int | None:
        """``max_size``; a null pool with ``max_size=0`` has no limit."""
        return cast("Pool", pool).max_size or None

    def out(self, pool: object) -> int | None:
        """``pool_size - pool_available``; that proves nothing once it is closed."""
        if cast("Pool", pool).closed:
            return None
        stats = cast("Pool", pool).get_stats()
        return stats.get("pool_size", 0) - stats.get("pool_available", 0)

    def close_loses_slot(self) -> bool:
        """``conn.close()`` on a checkout closes it behind the pool's back."""
        return True


class PsycopgPoolIntegration:
    """The pools of psycopg_pool."""

    module = "psycopg_pool"
    versions = Version(lowest=(3, 1), below=(4,))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the two classes that define the methods; the null pools inherit them."""
        from psycopg_pool import AsyncConnectionPool, ConnectionPool
        from psycopg_pool.base import BasePool

        patches.replace(BasePool, "__init__", lambda original: _created(original, runtime))
        patches.replace(ConnectionPool, "getconn", lambda original: _getconn(original, runtime))
        patches.replace(AsyncConnectionPool, "getconn", lambda original: _getconn_async(original, runtime))
        patches.replace(ConnectionPool, "putconn", lambda original: _putconn(original, runtime))
        patches.replace(AsyncConnectionPool, "putconn", lambda original: _putconn_async(original, runtime))
        # Private, but the same in 3.1 to 3.3, and the only way to know for which pool a connection is opened. Without
        # it a pool's connections are recognised at their first checkout, which is later and otherwise as good.
        if "_connect" in vars(ConnectionPool) and "_connect" in vars(AsyncConnectionPool):
            patches.replace(ConnectionPool, "_connect", lambda original: _connect(original, runtime))
            patches.replace(AsyncConnectionPool, "_connect", lambda original: _connect_async(original, runtime))


def is_pool(candidate: object) -> bool:
    """Whether `candidate` is one of psycopg_pool's pools. Only called once psycopg_pool has been imported."""
    from psycopg_pool.base import BasePool

    return isinstance(candidate, BasePool)


def _adopt(runtime: Runtime, pool: object, *, created: bool) -> PoolRecord:
    name = getattr(pool, "name", None) or type(pool).__name__
    return runtime.tracker.add_pool(pool, name=name, library=_LIBRARY, probe=PoolProbe(), created=created)


def _created(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            _adopt(runtime, self, created=True)
        except Exception as error:
            runtime.internal_error("psycopg_pool.create", error)

    return dressed(__init__, original)


def _begin(runtime: Runtime, pool: object) -> tuple[PoolRecord, Watch] | None:
    try:
        record = runtime.tracker.pool_of(pool) or _adopt(runtime, pool, created=False)
        watch = runtime.tracker.begin(record)
        return None if watch is None else (record, watch)
    except PendingLeaks as pending:
        leaks = pending.args[0]
    except Exception as error:
        runtime.internal_error("psycopg_pool.getconn", error)
        return None
    runtime.raise_pending(leaks)
    return None


def _acquired(runtime: Runtime, record: PoolRecord, watch: Watch, connection: object, skip: int) -> None:
    try:
        wire = runtime.tracker.wire_of(connection) or wire_below(runtime.tracker, connection)
        if wire.pool is not record:
            runtime.tracker.give_to_pool(wire, record)
        runtime.tracker.acquired(record, watch, wire, wire.ref, "getconn", skip)
    except Exception as error:
        runtime.internal_error("psycopg_pool.getconn", error)


def _failed(runtime: Runtime, pool: object, record: PoolRecord, watch: Watch, error: BaseException) -> None:
    try:
        next(record.finished)
        from psycopg_pool import PoolTimeout, TooManyRequests

        if not isinstance(error, (PoolTimeout, TooManyRequests)):
            return
        words = record.error
        cause = refusal_in(words) if words is not None else None
        held = record.holds()
        if words is not None and cause is not None:
            held = runtime.tracker.holds()  # the server is full: all of this process's connections fill it
        runtime.exhausted(error, watch=watch, pool=record, cause=cause or "pool", holds=held, server_words=words)
    except Exception as failure:
        runtime.internal_error("psycopg_pool.getconn", failure)


def _getconn(original: Callable[..., object], runtime: Runtime) -> Callable[..., object]:
    def getconn(self: object, *args: Any, **kwargs: Any) -> object:
        begun = _begin(runtime, self)
        if begun is None:
            return original(self, *args, **kwargs)
        record, watch = begun
        try:
            # Most calls have no arguments, and passing none on costs a third of passing on an empty tuple and dict.
            connection = original(self, *args, **kwargs) if args or kwargs else original(self)
        except BaseException as error:
            _failed(runtime, self, record, watch, error)
            raise
        _acquired(runtime, record, watch, connection, 3)
        return connection

    return dressed(getconn, original)


def _getconn_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    async def getconn(self: object, *args: Any, **kwargs: Any) -> object:
        begun = _begin(runtime, self)
        if begun is None:
            return await original(self, *args, **kwargs)
        record, watch = begun
        try:
            connection = await (original(self, *args, **kwargs) if args or kwargs else original(self))
        except BaseException as error:
            _failed(runtime, self, record, watch, error)
            raise
        _acquired(runtime, record, watch, connection, 2)  # our own frame may be the whole task
        return connection

    return dressed(getconn, original)


def _release(runtime: Runtime, pool: object, connection: object) -> HoldRecord | None:
    """End the hold before the pool gets the connection: afterwards the next acquire may already have it."""
    try:
        wire = runtime.tracker.dying_wire_of(connection)
        hold = wire.hold if wire is not None else None
        while hold is not None:
            ref = hold.pool.ref
            if ref is not None and ref() is pool:
                runtime.tracker.released(hold)
                return hold
            hold = hold.beneath  # this one is an outer pool's
        return None
    except Exception as error:
        runtime.internal_error("psycopg_pool.putconn", error)
        return None


def _putconn(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    def putconn(self: object, conn: object, *args: Any, **kwargs: Any) -> None:
        hold = _release(runtime, self, conn)
        try:
            if args or kwargs:
                original(self, conn, *args, **kwargs)
            else:
                original(self, conn)
        except ValueError:  # not this pool's connection: the call changed nothing
            if hold is not None:
                runtime.tracker.restore(hold)
            raise

    return dressed(putconn, original)


def _putconn_async(original: Callable[..., Awaitable[None]], runtime: Runtime) -> Callable[..., Awaitable[None]]:
    async def putconn(self: object, conn: object, *args: Any, **kwargs: Any) -> None:
        hold = _release(runtime, self, conn)
        try:
            await (original(self, conn, *args, **kwargs) if args or kwargs else original(self, conn))
        except ValueError:
            if hold is not None:
                runtime.tracker.restore(hold)
            raise

    return dressed(putconn, original)


def _connect(original: Callable[..., object], runtime: Runtime) -> Callable[..., object]:
    def _connect(self: object, *args: Any, **kwargs: Any) -> object:
        record = _connecting(runtime, self)
        token = opening_for.set(record)
        try:
            connection = original(self, *args, **kwargs)
        except BaseException as error:
            _connected(runtime, record, error)
            raise
        finally:
            opening_for.reset(token)
        _connected(runtime, record, None)
        return connection

    return dressed(_connect, original)


def _connect_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    async def _connect(self: object, *args: Any, **kwargs: Any) -> object:
        record = _connecting(runtime, self)
        token = opening_for.set(record)
        try:
            connection = await original(self, *args, **kwargs)
        except BaseException as error:
            _connected(runtime, record, error)
            raise
        finally:
            opening_for.reset(token)
        _connected(runtime, record, None)
        return connection

    return dressed(_connect, original)


def _connecting(runtime: Runtime, pool: object) -> PoolRecord | None:
    try:
        record = runtime.tracker.pool_of(pool) or _adopt(runtime, pool, created=False)
        next(record.begun)
        return record
    except Exception as error:
        runtime.internal_error("psycopg_pool.connect", error)
        return None


def _connected(runtime: Runtime, record: PoolRecord | None, error: BaseException | None) -> None:
    try:
        if record is None:
            return
        next(record.finished)
        if error is None:
            record.error = None
            record.connected_at = runtime.tracker.clock.monotonic()
        elif isinstance(error, Exception):  # a cancelled connect says nothing about the server
            record.error = str(error)
    except Exception as failure:
        runtime.internal_error("psycopg_pool.connect", failure)
