"""What happens to the direct connections of one driver, told to the tracker.

`Direct` says it; `closing()`, `using()` and `running()` make methods that do what they did, and have it said. A
connection that a pool opened is told of in the same way: who uses it, and what it runs, is then known of its checkout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from leakguard.integrations.base import Runtime, closed_after_all, opening_for
from leakguard.integrations.drivers import opened_by_pool
from leakguard.judging.refusals import refusal_of
from leakguard.patching import dressed
from leakguard.register.records import Driver, HoldRecord

_STATEMENT_ARGUMENTS: Final = ("query", "operation", "sql", "statement")
"""What drivers call the first argument of ``execute()``. Never another argument: those are the parameters."""


class DirectDriver(Driver, Protocol):
    """A driver whose connections can be watched one by one."""

    def is_open(self, connection: object) -> bool | None:
        """Whether the connection is open, told without a round trip; None where the driver does not say."""


def begin_direct(runtime: Runtime, library: str) -> None:
    """A connection is about to be opened. Raises the leaks that ``on_leak="raise"`` has waiting, if the application
    opens it and no pool."""
    try:
        watch = runtime.tracker.direct.watch
        if watch is None or not watch.pending or opening_for.get() is not None:
            return
        if opened_by_pool(runtime.tracker.recorder.rules):
            return
        leaks, watch.pending = watch.pending, []
    except Exception as error:
        runtime.internal_error(f"{library}.connect", error)
        return
    runtime.raise_pending(leaks)


class Direct:
    """Tells the tracker of one driver's connections. No method raises, but `begin()` what the application asked for;
    each may run in any thread and in a finalizer."""

    __slots__ = ("_driver", "_monotonic", "_runtime", "_tracker")

    def __init__(self, runtime: Runtime, driver: DirectDriver) -> None:
        self._driver = driver
        self._runtime = runtime
        self._tracker = runtime.tracker
        self._monotonic = runtime.tracker.clock.monotonic

    def begin(self) -> None:
        """A connection is about to be opened. Raises the leaks that ``on_leak="raise"`` has waiting."""
        begin_direct(self._runtime, self._driver.library)

    def opened(self, connection: object) -> None:
        """A connection was opened, by the application or on behalf of a pool; or has been opened again."""
        tracker = self._tracker
        if self._driver.library in tracker.off:
            return
        try:
            if self._driver.is_open(connection) is False:
                return  # made to be opened later (PyMySQL's defer_connect)
            known = tracker.wire_of(connection)
            if known is not None and known.closed_at is None:
                known.broken = False
                return
            pool = opening_for.get()
            wire = tracker.add_wire(connection, self._driver, pool)
            wire.tells = True
            wire.server = self._driver.server(connection)
            watch = tracker.direct.watch
            if pool is None and watch is not None and not opened_by_pool(tracker.recorder.rules):
                tracker.acquired(tracker.direct, watch, wire, wire.ref, "connect", 2)
        except Exception as error:
            self._failed("connect", error)

    def refused(self, error: BaseException) -> None:
        """A connection could not be opened: for want of a slot?"""
        try:
            cause = refusal_of(error) if isinstance(error, Exception) else None
            if cause is None:
                return
            pool = opening_for.get()
            watch = pool.watch if pool is not None else self._tracker.process_watch
            if watch is not None:
                self._runtime.exhausted(error, watch=watch, pool=pool, cause=cause, holds=self._tracker.holds())
        except Exception as failure:
            self._failed("connect", failure)

    def closed(self, connection: object) -> None:
        """Somebody called ``close()``, perhaps a finalizer: the connection is over unless it says that it is not."""
        try:
            wire = self._tracker.dying_wire_of(connection)
            if wire is not None and self._driver.is_open(connection) is not True:
                self._tracker.wire_closed(wire)
        except Exception as error:
            closed_after_all(self._runtime, connection, lambda: self._driver.is_open(connection) is not True)
            self._failed("close", error)

    def used(self, connection: object) -> None:
        """The connection is being used, or has just been: whoever does that becomes its owner."""
        try:
            wire = self._tracker.wire_of(connection)
            if wire is not None:
                self._tracker.used(wire)
        except Exception as error:
            self._failed("use", error)

    def failed(self, connection: object) -> None:
        """Something on the connection raised. The server may have hung up: then a direct connection is over."""
        try:
            wire = self._tracker.wire_of(connection)
            if wire is None or self._driver.is_open(connection) is not False:
                return
            wire.broken = True
            if wire.hold is None or not wire.hold.is_checkout:
                self._tracker.wire_closed(wire)
        except Exception as error:
            self._failed("use", error)

    def starts(self, connection: Any) -> HoldRecord | None:
        """Something that waits for the server begins: until it ends, the hold is active. None where nobody watches, or
        where it is part of something that runs already (``executemany()`` calls ``execute()``)."""
        try:
            try:
                wire = connection._leakguard  # written there by the tracker: this is the hot path
            except AttributeError:
                wire = self._tracker.wire_of(connection)
            hold: HoldRecord | None = None if wire is None else wire.hold
            if hold is None or hold.active_since is not None:
                return None
            if self._tracker.owners.current() is not hold.owner:
                self._tracker.used(wire)  # already now: a long statement must not be its former owner's
            hold.active_since = self._monotonic()
            return hold
        except Exception as error:
            self._failed("execute", error)
            return None

    def ends(self, hold: HoldRecord) -> None:
        """It has ended, well or not."""
        try:
            hold.last_used = self._monotonic()
            hold.active_since = None
        except Exception as error:
            self._failed("execute", error)

    def _failed(self, where: str, error: BaseException) -> None:
        self._runtime.internal_error(f"{self._driver.library}.{where}", error)


Method = Callable[..., Any]


def opening(original: Method, direct: Direct) -> Method:
    """A connection's own method that opens it: ``__init__``, or ``connect``."""

    def __init__(self: object, *args: Any, **kwargs: Any) -> Any:
        direct.begin()
        try:
            result = original(self, *args, **kwargs)
        except BaseException as error:
            direct.refused(error)
            raise
        direct.opened(self)
        return result

    return dressed(__init__, original)


def closing(original: Method, direct: Direct) -> Method:
    """A connection's ``close()``."""

    def close(self: object, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, *args, **kwargs)
        finally:
            direct.closed(self)

    return dressed(close, original)


def using(original: Method, direct: Direct) -> Method:
    """A method of a connection that talks to the server."""

    def use(self: object, *args: Any, **kwargs: Any) -> Any:
        direct.used(self)
        try:
            result = original(self, *args, **kwargs)
        except BaseException:
            direct.failed(self)
            raise
        direct.used(self)
        return result

    return dressed(use, original)


def running(original: Method, direct: Direct, connection_of: Callable[[Any], object]) -> Method:
    """A method of a cursor that runs the statement it is given."""

    def execute(self: object, *args: Any, **kwargs: Any) -> Any:
        connection = connection_of(self)
        hold = direct.starts(connection)
        if hold is None:
            return original(self, *args, **kwargs)
        statement = args[0] if args else next((kwargs[name] for name in _STATEMENT_ARGUMENTS if name in kwargs), None)
        hold.statements += 1
        # Only a text: a composed query may hold values, and anything else would be kept alive.
        hold.last_statement = statement if isinstance(statement, (str, bytes)) else None
        try:
            return original(self, *args, **kwargs)
        except BaseException:
            direct.failed(connection)
            raise
        finally:
            direct.ends(hold)

    return dressed(execute, original)


def reading(original: Method, direct: Direct, connection_of: Callable[[Any], object]) -> Method:
    """A method of a cursor that fetches, and may have to wait for the server."""

    def fetch(self: object, *args: Any, **kwargs: Any) -> Any:
        hold = direct.starts(connection_of(self))
        try:
            return original(self, *args, **kwargs)
        finally:
            if hold is not None:
                direct.ends(hold)

    return dressed(fetch, original)
