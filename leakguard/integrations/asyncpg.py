"""asyncpg: direct connections, and the checkouts of its pools.

Everything that a pool lends goes through ``Pool._acquire``, and comes back through ``Connection._on_release``, where a
release begins, before it waits for anything; or its connection ends. None of these names is public; they are the same
from 0.29 to 0.32. A pool refers strongly to what it lends, so a forgotten checkout is never collected:
`PoolProbe.abandoned` counts references.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast

from leakguard.integrations.asyncpg_connections import POOL, Connections
from leakguard.integrations.base import Runtime, Version, opening_for, unrecorded
from leakguard.patching import Patches, dressed
from leakguard.register.awaiters import awaiter_of, is_out_of_time
from leakguard.register.reachability import owners_of
from leakguard.register.records import Account, HoldRecord, PoolRecord, PoolRef, Watch, Wire
from leakguard.register.stacks import RawStack, SitePoint
from leakguard.register.tracker import PendingLeaks

if TYPE_CHECKING:
    import asyncio

_AWAITERS_LIMIT: Final = 5
"""How many tasks that wait for each other are asked whether their time is up."""
_UNBORN_LIMIT: Final = 100
"""How many pools that were created and never initialized are remembered."""


class AsyncpgIntegration:
    """asyncpg's connections and pools."""

    module = "asyncpg"
    versions = Version(lowest=(0, 29), below=(1,))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the classes of asyncpg, and the end of a timeout in asyncio."""
        from asyncio.timeouts import Timeout

        from asyncpg.connection import Connection
        from asyncpg.pool import Pool, PoolConnectionHolder

        seen = _Pools(runtime)
        seen.connections.install(patches)
        patches.on_undo(seen.forget)
        patches.replace(Pool, "__init__", lambda original: _created(original, seen))
        patches.replace(Pool, "_get_new_connection", lambda original: _get_new_connection(original, seen))
        patches.replace(Pool, "_acquire", lambda original: _acquire(original, seen))
        patches.replace(Connection, "_on_release", lambda original: _on_release(original, seen))
        patches.replace(PoolConnectionHolder, "_release", lambda original: _release(original, seen))
        patches.replace(Timeout, "_on_timeout", lambda original: _on_timeout(original, seen))


def is_pool(candidate: object) -> bool:
    """Whether `candidate` is one of asyncpg's pools. Only called once asyncpg has been imported."""
    import asyncpg

    return isinstance(candidate, asyncpg.Pool)


def matcher(pool: object) -> Callable[[object], bool] | None:
    """Whether a pool is this one. Holds it weakly, so it must have been initialized; else None."""
    if cast("Any", pool)._queue is None:
        return None
    ref = AnchorRef.to(pool)
    return lambda candidate: ref() is candidate


class _Anchor:
    """Lives on a pool's queue, and so exactly as long as the pool, which has no room for weak references.

    `ref` is the reference that knows the pool's record: the hot path finds it here.
    """

    __slots__ = ("__weakref__", "pool", "ref")
    ref: AnchorRef

    def __init__(self, pool: object) -> None:
        self.pool = pool


class AnchorRef(PoolRef):
    """A weak reference to a pool, through its anchor."""

    __slots__ = ()

    @classmethod
    def to(cls, pool: object, callback: Callable[[PoolRef], object] | None = None) -> PoolRef:
        """Refer to a pool. Raises AttributeError before it is initialized: until then it has no queue."""
        queue = cast("Any", pool)._queue
        anchor = getattr(queue, "_leakguard", None)
        if anchor is None:
            anchor = queue._leakguard = _Anchor(pool)
        ref = cls(anchor, callback)
        if callback is not None:
            anchor.ref = ref
        return ref

    def __call__(self) -> object | None:
        """The pool while it exists."""
        anchor = super().__call__()
        return anchor.pool if isinstance(anchor, _Anchor) else None


class PoolProbe:
    """What an asyncpg pool says of itself. `returning` are the connections, by id, that a release is resetting."""

    def __init__(self, returning: set[int]) -> None:
        self._returning = returning

    def capacity(self, pool: Any) -> int | None:
        """``max_size``."""
        return int(pool.get_max_size())

    def account(self, pool: Any) -> Account | None:
        """How many of its holders are in use, but for those whose connection is on its way back. One that is closed
        will not come: asyncpg before 0.32 forgets to give its slot back."""
        used = [holder._con for holder in pool._holders if holder._in_use is not None]
        return Account(out=sum(1 for con in used if con is None or id(con) not in self._returning or con.is_closed()))

    def close_loses_slot(self) -> bool:
        """``con.close()`` gives the slot back."""
        return False

    def abandoned(self, pool: object, handle: Callable[[], object | None]) -> bool | None:
        """By counting references: a holder has the proxy and the connection, and these have each other. Transactions,
        cursors, prepared statements and whatever runs refer to the connection, past the proxy."""
        connection: Any = handle()
        if connection is None or connection._proxy is None or connection._listeners:
            return None  # a notification hands the proxy to its listeners
        holder = connection._proxy._holder
        del connection
        proxies, connections = owners_of(lambda: holder._proxy), owners_of(lambda: holder._con)
        return None if proxies is None else proxies == connections == 2


def _reclaim(pool: Any, hold: HoldRecord) -> bool:
    """Release what nobody else can release any more, in the loop that the pool belongs to."""
    import asyncio

    connection: Any = hold.handle() if hold.handle is not None else None
    if connection is None or connection._proxy is None or not pool._loop.is_running():
        return False
    asyncio.run_coroutine_threadsafe(pool.release(connection._proxy), pool._loop)
    return True


class _Pools:
    """The state of the integration."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.tracker = runtime.tracker
        self.connections = Connections(runtime)
        self.returning: set[int] = set()
        self._expired: dict[int, weakref.ref[asyncio.Timeout]] = {}
        self._unborn: dict[int, tuple[SitePoint | None, RawStack]] = {}
        self._count = 0

    def forget(self) -> None:
        """Take back what was written on queues."""
        for record in list(self.tracker.pools.values()):
            queue = getattr(record.pool(), "_queue", None) if record.library == POOL else None
            if queue is not None:
                vars(queue).pop("_leakguard", None)

    def created(self, pool: object) -> None:
        """A pool is being created, two frames up. It can be known only once it has a queue: remember where it was."""
        if len(self._unborn) >= _UNBORN_LIMIT:
            self._unborn.pop(next(iter(self._unborn)), None)
        self._unborn[id(pool)] = self.tracker.recorder.capture_all(2)

    def record_of(self, pool: Any) -> PoolRecord | None:
        """The record of a pool; None before it is initialized."""
        record = self.tracker.pool_of(pool)
        if record is not None or pool._queue is None:
            return record
        self._count += 1
        record = self.tracker.add_pool(
            pool,
            name=f"asyncpg-pool-{self._count}",
            library=POOL,
            probe=PoolProbe(self.returning),
            created=False,
            reference=AnchorRef,
        )
        record.reclaim = _reclaim
        birth = self._unborn.pop(id(pool), None)
        if birth is not None:
            record.created, record.created_stack = birth
            record.baseline = 0
        return record

    # ------------------------------------------------------------------ acquire and release

    def begin_slowly(self, pool: object, error: Exception) -> tuple[PoolRecord | None, Watch | None]:
        """What the hot path does not do: a pool that was not seen before, leaks to raise, errors of our own."""
        try:
            if isinstance(error, PendingLeaks):
                leaks = error.args[0]
            else:
                if self.tracker.pool_of(pool) is not None:
                    raise error
                record = self.record_of(pool)
                return record, None if record is None else self.tracker.begin(record)
        except PendingLeaks as pending:
            leaks = pending.args[0]
        except Exception as failure:
            self.runtime.internal_error("asyncpg.acquire", failure)
            return None, None
        self.runtime.raise_pending(leaks)
        return None, None

    def acquired(self, record: PoolRecord, watch: Watch, proxy: Any) -> None:
        """A checkout has been handed out, one frame up."""
        wire: Wire | None = None
        try:
            connection = proxy._con
            if connection is None:  # the server has ended it, before whoever acquires could run
                next(record.finished)
                return
            wire = self.connections.wire_of(connection)
            if wire.pool is not record:
                self.tracker.give_to_pool(wire, record)
            self.tracker.acquired(record, watch, wire, wire.ref, "acquire", 2)  # our own frame may be the whole task
        except Exception as error:
            unrecorded(self.runtime, record, wire)
            self.runtime.internal_error("asyncpg.acquire", error)

    def failed(self, pool: Any, record: PoolRecord, watch: Watch, error: BaseException) -> None:
        """An acquire has raised: was every connection out?"""
        try:
            next(record.finished)
            from asyncio import CancelledError

            # A holder that is free, or that was being connected and has just been put back, is no want of a connection.
            if not isinstance(error, (TimeoutError, CancelledError)) or not pool._queue.empty():
                return
            told = isinstance(error, TimeoutError) or self._has_timed_out()
            holds = record.holds()
            self.runtime.exhausted(error, watch=watch, pool=record, cause="pool", holds=holds, told=told)
        except Exception as failure:
            self.runtime.internal_error("asyncpg.acquire", failure)

    def returns(self, connection: Any) -> None:
        """A release begins. The hold is over: what is still to do is the pool's."""
        try:
            self.returning.add(id(connection))
            self.connections.given_back(getattr(connection._protocol, "_leakguard", None))
        except Exception as error:
            self.runtime.internal_error("asyncpg.release", error)

    # ------------------------------------------------------------------ opening

    def opening(self, pool: object) -> PoolRecord | None:
        """The pool is about to open a connection."""
        try:
            return self.record_of(pool)
        except Exception as error:
            self.runtime.internal_error("asyncpg.open", error)
            return None

    def opened(self, record: PoolRecord, connection: object, began: float) -> None:
        """The pool has a new connection."""
        try:
            self.tracker.give_to_pool(self.connections.wire_of(connection), record)
            if self.tracker.meter is not None:
                self.tracker.meter.created(record, self.tracker.clock.monotonic() - began)
        except Exception as error:
            self.runtime.internal_error("asyncpg.open", error)

    # ------------------------------------------------------------------ timeouts

    def expires(self, timeout: asyncio.Timeout) -> None:
        """An ``asyncio.timeout()`` is about to cancel its task; remembered for as long as it exists."""
        expired, key = self._expired, id(timeout)
        expired[key] = weakref.ref(timeout, lambda _: expired.pop(key, None))

    def _has_timed_out(self) -> bool:
        """Whether the running task was cancelled because its time was up, or that of a task that waits for it."""
        expired = [timeout for ref in list(self._expired.values()) if (timeout := ref()) is not None]
        tasks = {cast("Any", timeout)._task for timeout in expired}
        task = self.tracker.owners.current().task
        for _ in range(_AWAITERS_LIMIT):
            if task is None:
                return False
            if task in tasks or is_out_of_time(task):
                return True
            task = awaiter_of(task)
        return False


def _created(original: Callable[..., None], seen: _Pools) -> Callable[..., None]:
    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            seen.created(self)
        except Exception as error:
            seen.runtime.internal_error("asyncpg.create", error)

    return dressed(__init__, original)


def _get_new_connection(original: Callable[..., Awaitable[object]], seen: _Pools) -> Callable[..., Awaitable[object]]:
    async def _get_new_connection(self: object) -> object:
        record, began = seen.opening(self), seen.tracker.clock.monotonic()
        token = opening_for.set(record)
        try:
            connection = await original(self)
        finally:
            opening_for.reset(token)
        if record is not None:
            seen.opened(record, connection, began)
        return connection

    return dressed(_get_new_connection, original)


def _acquire(original: Callable[..., Awaitable[object]], seen: _Pools) -> Callable[..., Awaitable[object]]:
    tracker = seen.tracker

    async def _acquire(self: Any, timeout: float | None) -> object:
        try:
            record = self._queue._leakguard.ref.record
            watch = tracker.begin(record)
        except Exception as error:
            record, watch = seen.begin_slowly(self, error)
        if record is None or watch is None:
            return await original(self, timeout)
        try:
            proxy = await original(self, timeout)
        except BaseException as error:
            seen.failed(self, record, watch, error)
            raise
        seen.acquired(record, watch, proxy)
        return proxy

    return dressed(_acquire, original)


def _on_release(original: Callable[..., None], seen: _Pools) -> Callable[..., None]:
    def _on_release(self: object, *args: Any, **kwargs: Any) -> None:
        seen.returns(self)
        original(self, *args, **kwargs)

    return dressed(_on_release, original)


def _release(original: Callable[..., None], seen: _Pools) -> Callable[..., None]:
    def _release(self: Any) -> None:
        seen.returning.discard(id(self._con))
        original(self)

    return dressed(_release, original)


def _on_timeout(original: Callable[..., None], seen: _Pools) -> Callable[..., None]:
    # asyncio.timeout() cancels its task, and the task cannot tell that from any other cancellation.
    def _on_timeout(self: asyncio.Timeout) -> None:
        try:
            seen.expires(self)
        except Exception as error:
            seen.runtime.internal_error("asyncpg.timeout", error)
        original(self)

    return dressed(_on_timeout, original)
