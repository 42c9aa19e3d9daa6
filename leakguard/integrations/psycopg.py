"""psycopg 3: direct connections, sync and async, and what every psycopg connection below a pool tells.

The choke point is ``BaseConnection.__init__``: it runs for sync, async and subclasses, for pools' workers, and for a
``connect`` that was imported by name before leakguard was installed. All I/O passes through ``Connection.wait``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, cast

from leakguard.integrations.base import Runtime, Version, closed_after_all, opening_for
from leakguard.integrations.direct import begin_direct
from leakguard.integrations.drivers import PSYCOPG, opened_by_pool
from leakguard.judging.refusals import refusal_of
from leakguard.patching import Patches, dressed

if TYPE_CHECKING:
    from psycopg import BaseConnection


class PsycopgIntegration:
    """Direct connections of psycopg 3."""

    module = "psycopg"
    versions = Version(lowest=(3, 1), below=(4,))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the classes of psycopg; nothing else has to know of them."""
        import psycopg

        sync, asynchronous = psycopg.Connection, psycopg.AsyncConnection
        patches.replace(psycopg.BaseConnection, "__init__", lambda original: _opened(original, runtime))
        patches.replace(sync, "close", lambda original: _closed(original, runtime))
        patches.replace(asynchronous, "close", lambda original: _closed_async(original, runtime))
        patches.replace(sync, "wait", lambda original: _waited(original, runtime))
        patches.replace(asynchronous, "wait", lambda original: _waited_async(original, runtime))
        for cursor in (psycopg.Cursor, psycopg.ServerCursor):
            for name in ("execute", "executemany"):
                if name in vars(cursor):
                    patches.replace(cursor, name, lambda original: _executed(original, runtime))
        for async_cursor in (psycopg.AsyncCursor, psycopg.AsyncServerCursor):
            for name in ("execute", "executemany"):
                if name in vars(async_cursor):
                    patches.replace(async_cursor, name, lambda original: _executed_async(original, runtime))
        # A connect is seen twice, before and when it is refused. The generator also runs for a `connect` imported by
        # name before leakguard; the classmethod sees the new exception that several hosts' failures are summed up in.
        if "_connect_gen" in vars(psycopg.BaseConnection):
            patches.replace(psycopg.BaseConnection, "_connect_gen", lambda original: _connecting(original, runtime))
        patches.wrap(sync, "connect", lambda f, _self, args, kwargs: _refusable(runtime, f, args, kwargs))
        patches.wrap(asynchronous, "connect", lambda f, _self, args, kwargs: _refusable_async(runtime, f, args, kwargs))
        # psycopg.connect is a bound method of the class as it was when psycopg was imported.
        patches.replace(psycopg, "connect", lambda _original: sync.connect)


def _opened(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    tracker = runtime.tracker

    def __init__(self: object, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if PSYCOPG.library in tracker.off:
            return
        try:
            pool = opening_for.get()
            wire = tracker.add_wire(self, PSYCOPG, pool)
            wire.tells = True
            wire.server = PSYCOPG.server(self)
            watch = tracker.direct.watch
            if pool is None and watch is not None and not opened_by_pool(tracker.recorder.rules):
                tracker.acquired(tracker.direct, watch, wire, wire.ref, "connect", 2)
        except Exception as error:
            runtime.internal_error("psycopg.connect", error)

    return dressed(__init__, original)


def _on_closed(runtime: Runtime, connection: object) -> None:
    try:
        wire = runtime.tracker.dying_wire_of(connection)
        if wire is not None and cast("BaseConnection[object]", connection).closed:
            runtime.tracker.wire_closed(wire)
    except Exception as error:
        closed_after_all(runtime, connection, lambda: cast("BaseConnection[object]", connection).closed)
        runtime.internal_error("psycopg.close", error)


def _closed(original: Callable[..., None], runtime: Runtime) -> Callable[..., None]:
    def close(self: object) -> None:
        try:
            return original(self)
        finally:
            # A pool with close_returns has taken it back by now, open; then nothing was closed.
            _on_closed(runtime, self)

    return dressed(close, original)


def _closed_async(original: Callable[..., Awaitable[None]], runtime: Runtime) -> Callable[..., Awaitable[None]]:
    async def close(self: object) -> None:
        try:
            return await original(self)
        finally:
            _on_closed(runtime, self)

    return dressed(close, original)


def _on_used(runtime: Runtime, connection: Any) -> None:
    try:
        wire = runtime.tracker.wire_of(connection)
        if wire is not None:
            runtime.tracker.used(wire)
    except Exception as error:
        runtime.internal_error("psycopg.wait", error)


def _on_failed(runtime: Runtime, connection: object) -> None:
    # The server may have hung up: then a direct connection is over, whatever its owner does with the object.
    try:
        wire = runtime.tracker.wire_of(connection)
        if wire is None or not cast("BaseConnection[object]", connection).closed:
            return
        wire.broken = True
        if wire.hold is None or not wire.hold.is_checkout:
            runtime.tracker.wire_closed(wire)
    except Exception as error:
        runtime.internal_error("psycopg.wait", error)


def _waited(original: Callable[..., object], runtime: Runtime) -> Callable[..., object]:
    tracker = runtime.tracker

    def wait(self: Any, gen: object, *args: Any, **kwargs: Any) -> object:
        try:
            result = original(self, gen, *args, **kwargs) if args or kwargs else original(self, gen)
        except BaseException:
            _on_used(runtime, self)
            _on_failed(runtime, self)
            raise
        try:
            tracker.used(self._leakguard)
        except AttributeError:  # a connection that is older than leakguard
            _on_used(runtime, self)
        except Exception as error:
            runtime.internal_error("psycopg.wait", error)
        return result

    return dressed(wait, original)


def _waited_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    tracker = runtime.tracker

    async def wait(self: Any, *args: Any, **kwargs: Any) -> object:
        try:
            result = await original(self, *args, **kwargs)
        except BaseException:
            _on_used(runtime, self)
            _on_failed(runtime, self)
            raise
        try:
            tracker.used(self._leakguard)
        except AttributeError:
            _on_used(runtime, self)
        except Exception as error:
            runtime.internal_error("psycopg.wait", error)
        return result

    return dressed(wait, original)


def _on_execute(runtime: Runtime, cursor: Any, query: object) -> None:
    try:
        wire = runtime.tracker.wire_of(cursor._conn)
        if wire is not None:
            runtime.tracker.statement(wire, query)
    except Exception as error:
        runtime.internal_error("psycopg.execute", error)


def _executed(original: Callable[..., object], runtime: Runtime) -> Callable[..., object]:
    tracker = runtime.tracker

    def execute(self: Any, query: object, *args: Any, **kwargs: Any) -> object:
        try:
            tracker.statement(self._conn._leakguard, query)  # the public property costs twice as much
        except AttributeError:  # a connection that is older than leakguard
            _on_execute(runtime, self, query)
        except Exception as error:  # not to be tried again: it may be a signal handler's, and the application's
            runtime.internal_error("psycopg.execute", error)
        return original(self, query, *args, **kwargs)

    return dressed(execute, original)


def _executed_async(original: Callable[..., Awaitable[object]], runtime: Runtime) -> Callable[..., Awaitable[object]]:
    tracker = runtime.tracker

    # Not `_executed`, although it would do: whoever asks whether execute() is a coroutine function must hear yes.
    async def execute(self: Any, query: object, *args: Any, **kwargs: Any) -> object:
        try:
            tracker.statement(self._conn._leakguard, query)
        except AttributeError:
            _on_execute(runtime, self, query)
        except Exception as error:
            runtime.internal_error("psycopg.execute", error)
        return await original(self, query, *args, **kwargs)

    return dressed(execute, original)


def _connecting(original: Any, runtime: Runtime) -> Any:
    function = original.__func__ if isinstance(original, classmethod) else original

    def _connect_gen(cls: type, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        begin_direct(runtime, PSYCOPG.library)
        try:
            return (yield from function(cls, *args, **kwargs))
        except Exception as error:
            _on_refused(runtime, error)
            raise

    ours = dressed(_connect_gen, function)
    return classmethod(ours) if isinstance(original, classmethod) else ours


def _refusable(runtime: Runtime, connect: Callable[..., object], args: Any, kwargs: Any) -> object:
    begin_direct(runtime, PSYCOPG.library)
    try:
        return connect(*args, **kwargs)
    except Exception as error:
        _on_refused(runtime, error)
        raise


async def _refusable_async(
    runtime: Runtime, connect: Callable[..., Awaitable[object]], args: Any, kwargs: Any
) -> object:
    begin_direct(runtime, PSYCOPG.library)
    try:
        return await connect(*args, **kwargs)
    except Exception as error:
        _on_refused(runtime, error)
        raise


def _on_refused(runtime: Runtime, error: Exception) -> None:
    """A connect failed. Where a pool was connecting, the pool remembers why; else the exception itself tells."""
    try:
        if opening_for.get() is not None:
            return
        watch, cause = runtime.tracker.process_watch, refusal_of(error)
        if watch is not None and cause is not None:
            runtime.exhausted(error, watch=watch, pool=None, cause=cause, holds=runtime.tracker.holds())
    except Exception as failure:
        runtime.internal_error("psycopg.connect", failure)
