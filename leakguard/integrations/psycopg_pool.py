"""psycopg_pool: ConnectionPool, NullConnectionPool and their async twins.

Everything an application takes and gives back goes through ``getconn`` and ``putconn``, also ``connection()`` and
``close_returns``; the null pools inherit both. The pool itself never notices a checkout that nobody returns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from leakguard.integrations.base import Runtime, Version, opening_for, released_after_all, unrecorded
from leakguard.integrations.drivers import wire_below
from leakguard.judging.refusals import refusal_in
from leakguard.patching import Patches, dressed
from leakguard.register.records import Account, HoldRecord, PoolRecord, Watch
from leakguard.register.tracker import PendingLeaks

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    Pool = ConnectionPool[Any] | AsyncConnectionPool[Any]  # of any connection class

_LIBRARY = "psycopg_pool"


class PoolProbe:
    """What a psycopg pool says of itself, without its lock."""

    def capacity(self, pool: object) -> int | None:
        """``max_size``; a null pool with ``max_size=0`` has no limit."""
        return cast("Pool", pool).max_size or None

    def account(self, pool: object) -> Account | None:
        """From its statistics; they prove nothing once it is closed."""
        if cast("Pool", pool).closed:
            return None
        stats = cast("Pool", pool).get_stats()
        home = stats.get("pool_available", 0)
        return Account(out=stats.get("pool_size", 0) - home, home=home, waiting=stats.get("requests_waiting", 0))

    def close_loses_slot(self) -> bool:
        """``conn.close()`` on a checkout closes it behind the pool's back."""
        return True

    def abandoned(self, pool: object, handle: object) -> bool | None:
        """The pool keeps no reference to a checkout: its end shows by itself."""
        return None


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
    record = runtime.tracker.add_pool(pool, name=name, library=_LIBRARY, probe=PoolProbe(), created=created)
    record.reclaim = _reclaim
    return record


class _StandIn:
    """A connection that is closed: what a pool has to be given back, so that it opens another one in its place."""

    closed = True

    def __init__(self, pool: object) -> None:
        from psycopg.pq import TransactionStatus

        self._pool = pool
        self.pgconn = self
        self.transaction_status = TransactionStatus.UNKNOWN

    def __repr__(self) -> str:
        return "<leakguard: in the place of a checkout that was dropped>"

    def close(self) -> None:
        """Nothing is open."""


class _AsyncStandIn(_StandIn):
    async def close(self) -> None:  # type: ignore[override]
        """Nothing is open."""


def _reclaim(pool: Any, _hold: HoldRecord) -> bool:
    """To return a closed connection is in order, and makes the pool open another one; the dropped one is gone."""
    from psycopg_pool import ConnectionPool

    if isinstance(pool, ConnectionPool):
        pool.putconn(cast("Any", _StandIn(pool)))
        return True
    import asyncio

    # A pool without a worker is closed, or its loop is.
    loops = {worker.get_loop() for worker in pool._workers}
    loop = next((loop for loop in loops if loop.is_running()), None)
    if loop is None:
        return False
    asyncio.run_coroutine_threadsafe(pool.putconn(_AsyncStandIn(pool)), loop)
    return True


def _created(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            _adopt(runtime, self, created=True)
        except Exception as error:
            runtime.internal_error("psycopg_pool.create", error)

    return dressed(__init__, original)


def _begin_slowly(runtime: Runtime, pool: object, error: Exception) -> tuple[PoolRecord, Watch] | tuple[None, None]:
    """What the hot path does not do: a pool that was not seen before, leaks to raise, errors of our own."""
    try:
        if isinstance(error, PendingLeaks):
            leaks = error.args[0]
        else:
            if runtime.tracker.pool_of(pool) is not None:
                raise error
            record = _adopt(runtime, pool, created=False)
            watch = runtime.tracker.begin(record)
            return (None, None) if watch is None else (record, watch)
    except PendingLeaks as pending:
        leaks = pending.args[0]
    except Exception as failure:
        runtime.internal_error("psycopg_pool.getconn", failure)
        return None, None
    runtime.raise_pending(leaks)
    return None, None


def _acquired_slowly(
    runtime: Runtime, record: PoolRecord, watch: Watch, connection: object, skip: int, error: Exception
) -> None:
    """What the hot path does not do: a connection that was not seen before, errors of our own."""
    wire = None
    try:
        wire = runtime.tracker.wire_of(connection)
        if wire is not None:
            raise error
        wire = wire_below(runtime.tracker, connection)
        runtime.tracker.give_to_pool(wire, record)
        runtime.tracker.acquired(record, watch, wire, wire.ref, "getconn", skip + 1)
    except Exception as failure:
        unrecorded(runtime, record, wire)
        runtime.internal_error("psycopg_pool.getconn", failure)


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
    tracker = runtime.tracker

    def getconn(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            record = self._leakguard
            watch = tracker.begin(record)
        except Exception as error:
            record, watch = _begin_slowly(runtime, self, error)
        if watch is None:
            return original(self, *args, **kwargs)
        try:
            # Most calls have no arguments, and passing none on costs a third of passing on an empty tuple and dict.
            connection: Any = original(self, *args, **kwargs) if args or kwargs else original(self)
        except BaseException as error:
            _failed(runtime, self, record, watch, error)
            raise
        try:
            wire = connection._leakguard
            if wire.pool is not record:
                tracker.give_to_pool(wire, record)
            tracker.acquired(record, watch, wire, wire.ref, "getconn", 2)
        except Exception as error:
            _acquired_slowly(runtime, record, watch, connection, 2, error)
        return connection

    return dressed(getconn, original)


def _getconn_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    tracker = runtime.tracker

    async def getconn(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            record = self._leakguard
            watch = tracker.begin(record)
        except Exception as error:
            record, watch = _begin_slowly(runtime, self, error)
        if watch is None:
            return await original(self, *args, **kwargs)
        try:
            connection: Any = await (original(self, *args, **kwargs) if args or kwargs else original(self))
        except BaseException as error:
            _failed(runtime, self, record, watch, error)
            raise
        try:
            wire = connection._leakguard
            if wire.pool is not record:
                tracker.give_to_pool(wire, record)
            tracker.acquired(record, watch, wire, wire.ref, "getconn", 1)  # our own frame may be the whole task
        except Exception as error:
            _acquired_slowly(runtime, record, watch, connection, 1, error)
        return connection

    return dressed(getconn, original)


def _release(runtime: Runtime, pool: Any, connection: Any) -> HoldRecord | None:
    """End the hold before the pool gets the connection: afterwards the next acquire may already have it."""
    hold = None
    try:
        tracker = runtime.tracker
        try:
            hold, record = connection._leakguard.hold, pool._leakguard
        except AttributeError:
            wire, record = tracker.dying_wire_of(connection), tracker.pool_of(pool)
            hold = wire.hold if wire is not None else None
        while hold is not None:
            if hold.pool is record:
                tracker.released(hold)
                return cast("HoldRecord", hold)
            hold = hold.beneath  # this one is an outer pool's
        return None
    except Exception as error:
        released_after_all(runtime, hold, error)
        runtime.internal_error("psycopg_pool.putconn", error)
        return hold


def _putconn(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    tracker = runtime.tracker

    def putconn(self: Any, conn: Any, *args: Any, **kwargs: Any) -> None:
        hold = None
        try:
            hold = conn._leakguard.hold
            if hold.pool is not self._leakguard:
                raise AttributeError
            tracker.released(hold)
        except AttributeError:  # an outer pool's, or one that is not known
            hold = _release(runtime, self, conn)
        except Exception as error:
            released_after_all(runtime, hold, error)
            runtime.internal_error("psycopg_pool.putconn", error)
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
        record, began = _connecting(runtime, self), runtime.tracker.clock.monotonic()
        token = opening_for.set(record)
        try:
            connection = original(self, *args, **kwargs)
        except BaseException as error:
            _connected(runtime, record, began, error)
            raise
        finally:
            opening_for.reset(token)
        _connected(runtime, record, began, None)
        return connection

    return dressed(_connect, original)


def _connect_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    async def _connect(self: object, *args: Any, **kwargs: Any) -> object:
        record, began = _connecting(runtime, self), runtime.tracker.clock.monotonic()
        token = opening_for.set(record)
        try:
            connection = await original(self, *args, **kwargs)
        except BaseException as error:
            _connected(runtime, record, began, error)
            raise
        finally:
            opening_for.reset(token)
        _connected(runtime, record, began, None)
        return connection

    return dressed(_connect, original)


def _connecting(runtime: Runtime, pool: object) -> PoolRecord | None:
    try:
        record = runtime.tracker.pool_of(pool) or _adopt(runtime, pool, created=False)
        next(record.connects_begun)
        return record
    except Exception as error:
        runtime.internal_error("psycopg_pool.connect", error)
        return None


def _connected(runtime: Runtime, record: PoolRecord | None, began: float, error: BaseException | None) -> None:
    try:
        if record is None:
            return
        next(record.connects_finished)
        tracker = runtime.tracker
        if error is None:
            record.error = None
            if tracker.meter is not None:
                tracker.meter.created(record, tracker.clock.monotonic() - began)
        elif isinstance(error, Exception):  # a cancelled connect says nothing about the server
            record.error = str(error)
            pool = cast("Pool", record.pool())
            record.retries_until = tracker.clock.monotonic() + pool.reconnect_timeout
    except Exception as failure:
        runtime.internal_error("psycopg_pool.connect", failure)
