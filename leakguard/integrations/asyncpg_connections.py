"""What every connection of asyncpg tells, direct or a pool's: its opening, its statements, its end.

Direct connections come out of ``connect_utils._connect``, also for a ``connect`` that was imported by name. Statements
are seen at the protocol, below connections, prepared statements and cursors; so that is where a connection's wire is
written: the connection itself has no room for it. A connection ends in ``_cleanup``, however that came.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from leakguard.integrations.base import Runtime, closed_after_all, opening_for, released_after_all
from leakguard.integrations.direct import Direct
from leakguard.integrations.drivers import ASYNCPG, driver_of, wire_below
from leakguard.patching import Patches, dressed
from leakguard.register.records import HoldRecord, Wire

POOL: Final = "asyncpg_pool"
"""The `library` of the checkouts of asyncpg's own pools."""

Statement = Callable[[tuple[Any, ...], dict[str, Any]], object]
"""From the arguments of one of the protocol's methods to the text that it runs."""


class Connections:
    """The connections of asyncpg. No method raises but what the application asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.tracker = runtime.tracker
        self.direct = Direct(runtime, ASYNCPG)
        self.finalizing: set[int] = set()
        """By id, those whose finalizer runs: what it closes, nobody has closed."""

    def install(self, patches: Patches) -> None:
        """Patch the connection, its protocol, and what opens it."""
        from asyncpg import connect_utils
        from asyncpg.connection import Connection
        from asyncpg.protocol.protocol import Protocol

        patches.on_undo(self._forget)
        patches.replace(connect_utils, "_connect", lambda original: _connect(original, self))
        patches.replace(Connection, "_cleanup", lambda original: _cleanup(original, self))
        patches.replace(Connection, "__del__", lambda original: _finalized(original, self))
        for name in _STATEMENTS:
            patches.replace(Protocol, name, lambda original, name=name: _run(original, self, name))  # type: ignore[misc]

    def wire_of(self, connection: Any) -> Wire:
        """The wire of a connection that is open, also of one that is older than leakguard."""
        protocol = connection._protocol
        wire: Wire | None = getattr(protocol, "_leakguard", None)
        if wire is None or self.tracker.wires.get(wire.key) is not wire:  # it may be that of a parent process
            wire = protocol._leakguard = wire_below(self.tracker, connection)
        return wire

    def opened(self, connection: object) -> None:
        """``connect()`` is about to return a connection."""
        try:
            watch = self.tracker.direct.watch
            if ASYNCPG.library in self.tracker.off or opening_for.get() is not None:
                return
            if driver_of(connection) is not ASYNCPG:  # a test's double
                return
            wire = self.wire_of(connection)
            if watch is not None:
                self.tracker.acquired(self.tracker.direct, watch, wire, wire.ref, "connect", 2)
        except Exception as error:
            self.runtime.internal_error("asyncpg.connect", error)

    def given_back(self, wire: Wire | None) -> None:
        """The pool has its slot back, or will have it after a reset."""
        hold = wire.hold if wire is not None else None
        while hold is not None:
            if hold.pool.library == POOL:
                try:
                    self.tracker.released(hold)
                except Exception as error:
                    released_after_all(self.runtime, hold, error)
                    self.runtime.internal_error("asyncpg.release", error)
            hold = hold.beneath  # this one is an outer pool's

    def closed(self, connection: object) -> None:
        """A connection is being closed, by whomever; with it, its checkout gives the slot back."""
        if id(connection) in self.finalizing:
            return
        try:
            wire = self.tracker.dying_wire_of(connection)
            self.given_back(wire)
            if wire is not None:
                self.tracker.wire_closed(wire)
        except Exception as error:
            closed_after_all(self.runtime, connection, lambda: True)
            self.runtime.internal_error("asyncpg.close", error)

    def _forget(self) -> None:
        """Take back what was written on protocols."""
        for wire in list(self.tracker.wires.values()):
            protocol = getattr(wire.connection(), "_protocol", None) if wire.driver is ASYNCPG else None
            if protocol is not None:
                vars(protocol).pop("_leakguard", None)


def _connect(original: Callable[..., Awaitable[object]], seen: Connections) -> Callable[..., Awaitable[object]]:
    async def _connect(*args: Any, **kwargs: Any) -> object:
        seen.direct.begin()
        try:
            connection = await original(*args, **kwargs)
        except BaseException as error:
            seen.direct.refused(error)
            raise
        seen.opened(connection)
        return connection

    return dressed(_connect, original)


def _cleanup(original: Callable[..., None], seen: Connections) -> Callable[..., None]:
    def _cleanup(self: object) -> None:
        seen.closed(self)
        original(self)

    return dressed(_cleanup, original)


def _finalized(original: Callable[..., None], seen: Connections) -> Callable[..., None]:
    # Runs inside the collector: no lock, no I/O, no exception. The connection's weak reference tells of its end.
    def __del__(self: object) -> None:
        seen.finalizing.add(id(self))
        try:
            original(self)
        finally:
            seen.finalizing.discard(id(self))

    return dressed(__del__, original)


# ---------------------------------------------------------------------- statements


def _text(keyword: str) -> Statement:
    return lambda args, kwargs: args[0] if args else kwargs[keyword]


def _query_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
    return (args[0] if args else kwargs["state"]).query


_STATEMENTS: Final[dict[str, Statement | None]] = {
    "query": _text("query"),
    "bind_execute": _query_of,
    "bind_execute_many": _query_of,
    "bind": _query_of,
    "copy_in": _text("copy_stmt"),
    "copy_out": _text("copy_stmt"),
    "execute": None,  # more rows of a cursor
    "prepare": None,
}
"""The protocol's methods that wait for the server, and what each runs; None where that is no statement of its own."""


def _run(original: Callable[..., Awaitable[object]], seen: Connections, name: str) -> Callable[..., Awaitable[object]]:
    statement, direct, tracker = _STATEMENTS[name], seen.direct, seen.tracker

    def begun(protocol: Any, hold: HoldRecord, args: Any, kwargs: Any) -> None:
        try:
            # SQLAlchemy tells of its statements itself.
            if statement is not None and hold.pool.library != "sqlalchemy":
                tracker.statement(protocol._leakguard, statement(args, kwargs))
        except Exception as error:
            seen.runtime.internal_error("asyncpg.execute", error)

    async def run(self: Any, *args: Any, **kwargs: Any) -> object:
        hold = direct.starts(self)  # None while SQLAlchemy runs it, or where asyncpg is about to refuse it
        if hold is not None:
            begun(self, hold, args, kwargs)
        try:
            return await original(self, *args, **kwargs)
        except BaseException:
            _failed(self, direct)
            raise
        finally:
            if hold is not None:
                direct.ends(hold)

    return dressed(run, original)


def _failed(protocol: Any, direct: Direct) -> None:
    wire: Wire | None = getattr(protocol, "_leakguard", None)
    connection = wire.connection() if wire is not None else None
    if connection is not None:
        direct.failed(connection)
