"""The public functions: install, watch, and the questions and promises about what is held."""

from __future__ import annotations

import functools
import gc
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Final, Literal, ParamSpec, TypeVar, cast

from leakguard import runtime
from leakguard.errors import SettingsError, UnsupportedError
from leakguard.guard import Guard, leak_error
from leakguard.judging.judge import Finding
from leakguard.model import Hold, Leak
from leakguard.register.records import HoldRecord
from leakguard.register.scopes import LongHold, entered

P = ParamSpec("P")
R = TypeVar("R")

_boundary_ids: Final = itertools.count(1)


def install(**settings: object) -> Guard:
    """Watch this whole process: every supported library, imported already or later.

    While it is installed, returns the same guard with the given settings applied. The settings are those of the
    reference; a keyword beats the environment, which beats ``[tool.leakguard]`` in ``pyproject.toml``. Raises
    SettingsError. Thread-safe.
    """
    return runtime.current().install(settings)


def watch(engine_or_pool: object, **settings: object) -> Guard:
    """Watch just this SQLAlchemy engine or pool (sync or async), or this pool of psycopg_pool, asyncpg or psycopg2.

    It is held weakly, and judged by the returned guard alone, with these settings. Raises SettingsError, and
    UnsupportedError for an object of another kind, or a pool of asyncpg before it is initialized. Thread-safe.
    """
    if "sqlalchemy" in sys.modules:
        from leakguard.integrations import sqlalchemy

        engine = sqlalchemy.engine_of(engine_or_pool)
        if engine is not None:
            return runtime.current().watch(sqlalchemy.matcher(engine), settings)
        if sqlalchemy.is_pool(engine_or_pool):
            return runtime.current().watch(_is(engine_or_pool), settings)
    if "asyncpg" in sys.modules:
        from leakguard.integrations import asyncpg

        if asyncpg.is_pool(engine_or_pool):
            matches = asyncpg.matcher(engine_or_pool)
            if matches is None:
                raise UnsupportedError("leakguard.watch() takes an asyncpg pool that is initialized: await it first")
            return runtime.current().watch(matches, settings)
    if "psycopg_pool" in sys.modules:
        from leakguard.integrations import psycopg_pool

        if psycopg_pool.is_pool(engine_or_pool):
            return runtime.current().watch(_is(engine_or_pool), settings)
    if "psycopg2.pool" in sys.modules:
        from leakguard.integrations import psycopg2_pool

        if psycopg2_pool.is_pool(engine_or_pool):
            return runtime.current().watch(_is(engine_or_pool), settings)
    raise UnsupportedError(
        f"leakguard.watch() cannot watch {type(engine_or_pool).__module__}.{type(engine_or_pool).__qualname__}: "
        "it takes a SQLAlchemy engine or pool, or a pool of psycopg_pool, asyncpg or psycopg2"
    )


def _is(pool: object) -> Callable[[object], bool]:
    import weakref

    ref = weakref.ref(pool)
    return lambda candidate: ref() is candidate


def holds() -> list[Hold]:
    """What is held right now, oldest first. Thread-safe."""
    found = [hold for guard in list(runtime.current().guards) for hold in guard.holds()]
    return sorted(found, key=lambda hold: hold.id)


def check() -> list[Leak]:
    """Judge everything now (collects garbage first), report, and return what was found since the last check.

    Leaks that the watchdog has found and reported in the meantime are among them. With ``on_leak="raise"`` raises
    ConnectionLeakError instead. Thread-safe.
    """
    current = runtime.current()
    by_guard = [(guard, current.check(guard)) for guard in list(current.guards)]
    for guard, leaks in by_guard:
        guard.raise_for(leaks)
    return [leak for _, leaks in by_guard for leak in leaks]


def allow(connection_or_hold: object, reason: str) -> None:
    """This connection is held on purpose (LISTEN, a leader's lock): its present hold is not reported.

    Takes a `Hold`, a driver's connection, or a SQLAlchemy connection (sync, async or raw). Does nothing
    where leakguard does not watch it. Raises UnsupportedError for another kind of object, ValueError without a reason.
    """
    _require_reason("allow", reason)
    found = _hold_of(connection_or_hold)
    if found is not None:
        found.allowed = reason


def _require_reason(function: str, reason: object) -> None:
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"leakguard.{function}() needs a reason: a sentence for whoever asks why this is held so long")


def _hold_of(subject: object) -> HoldRecord | None:
    tracker = runtime.current().tracker
    if isinstance(subject, Hold):
        return next((record for record in tracker.holds() if record.serial == subject.id), None)
    driver = _driver_connection(subject)
    wire = tracker.wire_of(driver)
    return wire.hold if wire is not None else None


def _driver_connection(subject: object) -> object:
    """The driver's connection below a SQLAlchemy connection (async, sync or raw), or the object itself."""
    if isinstance(subject, (str, bytes, int, float, dict, list, tuple, type(None))):
        raise UnsupportedError(
            f"leakguard.allow() takes a connection or a Hold, not {type(subject).__name__} {str(subject)[:40]!r}"
        )
    subject = getattr(subject, "sync_connection", subject)  # AsyncConnection
    if type(subject).__module__.startswith("sqlalchemy.orm") or hasattr(subject, "sync_session"):
        raise UnsupportedError("leakguard.allow() takes a connection: give it session.connection()")
    if type(subject).__module__.startswith("sqlalchemy.engine"):
        subject = cast("Any", subject).connection  # Connection -> the pool's proxy
    from leakguard.integrations.drivers import beneath

    return beneath(getattr(subject, "driver_connection", None) or subject)


@contextmanager
def expect_long(reason: str, threshold: float = 300.0) -> Iterator[None]:
    """What is acquired inside may be held for `threshold` seconds before it is suspected. Also a decorator."""
    _require_reason("expect_long", reason)
    limit: object = threshold  # checked like a setting: not everybody has a type checker
    if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not 0 < limit < float("inf"):
        raise SettingsError(f"leakguard: expect_long(threshold={limit!r}) is not accepted: seconds as a number above 0")
    with entered(long=LongHold(reason=reason, threshold=float(limit))):
        yield


@contextmanager
def label(**labels: object) -> Iterator[None]:
    """Put labels on the owner of whatever is acquired inside, in this thread or task and the tasks it starts."""
    with entered(labels={name: str(value) for name, value in labels.items()}):
        yield


class no_leaks:
    """Raises ConnectionLeakError if anything acquired inside is still held, or was dropped, at the end.

    ``with``, ``async with`` or a decorator of functions and coroutine functions. Counts what any thread or task
    acquires meanwhile; with ``scope="context"`` only what this context and the tasks it starts acquire. Works without
    `install()`: then it instruments for its own duration. If the body raises, that exception propagates, with the
    leaks as a note. Not reusable while it is entered; each call of a decorated function is a boundary of its own.
    """

    def __init__(self, *, scope: Literal["process", "context"] = "process") -> None:
        if scope not in ("process", "context"):
            raise SettingsError(
                f'leakguard: no_leaks(scope={scope!r}) is not accepted: "process" (all threads and tasks) or "context"'
            )
        self._scope = scope
        self._stack: ExitStack | None = None
        self._found: list[Leak] = []

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function or a coroutine function."""
        scope = self._scope
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def guarded_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                async with no_leaks(scope=scope):
                    return await cast("Any", function)(*args, **kwargs)

            return cast("Callable[P, R]", guarded_async)

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with no_leaks(scope=scope):
                return function(*args, **kwargs)

        return guarded

    def __enter__(self) -> None:
        if self._stack is not None:
            raise RuntimeError("this no_leaks() is entered already: make one for each block")
        self._runtime = runtime.current()
        with ExitStack() as stack:
            stack.enter_context(self._runtime.instrumented())
            self._first = self._runtime.tracker.last_serial()
            self._begun = self._runtime.tracker.clock.monotonic()
            self._id = next(_boundary_ids)
            self._found = []
            stack.enter_context(self._runtime.rounds.collecting(self._collect))
            if self._scope == "context":
                stack.enter_context(entered(boundary=self._id))
            self._stack = stack.pop_all()

    async def __aenter__(self) -> None:
        self.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None
        with stack:
            gc.collect()
            held = [hold for hold in self._runtime.tracker.holds() if self._is_inside(hold)]
            self._runtime.rounds.work(everything=True, boundary="no_leaks", crossing=held)
            for guard in self._runtime.guards:
                guard.told(self._found)
        if not self._found:
            return
        leaks = leak_error(self._found)
        if error is None:
            raise leaks
        error.add_note(str(leaks))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def _is_inside(self, hold: HoldRecord) -> bool:
        if self._scope == "context":
            return self._id in hold.scope.boundaries
        return hold.serial > self._first

    def _collect(self, finding: Finding, leak: Leak) -> None:
        if not leak.certain:
            return
        if finding.hold is not None:
            inside = self._is_inside(finding.hold)
        else:
            inside = self._scope == "process" and finding.pool.born >= self._begun
        if inside:
            self._found.append(leak)
