"""For tests: time that is moved by hand, a reporter that remembers, and leak checks for ``unittest``.

::

    with fake_time() as time:
        recorder = Recorder()
        with leakguard.install(threshold=30.0, on_leak=recorder):
            connection = pool.getconn()
            time.advance(30.0)
            assert [leak.kind for leak in recorder.leaks] == ["overdue"]
            pool.putconn(connection)

Nothing of these sleeps, and no thread is started. `LeakGuardMixin` makes each test of a class a boundary::

    class OrderTests(LeakGuardMixin, unittest.TestCase): ...
"""

from __future__ import annotations

import asyncio
import functools
import gc
import re
import sys
import threading
import time
import unittest
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from leakguard import runtime
from leakguard.clock import Clock
from leakguard.errors import ConnectionLeakError, SettingsError
from leakguard.guard import leak_error
from leakguard.judging.judge import Finding
from leakguard.model import Event, Exhausted, Leak, Recovered, Summary
from leakguard.references import reference_path
from leakguard.register.records import HoldRecord, PoolRecord
from leakguard.register.scopes import entered
from leakguard.runtime import Runtime

__unittest = True  # unittest leaves the frames of such modules out of its tracebacks

NOON: Final = 1_769_860_800.0
"""2026-01-31 12:00 UTC: the wall time at which a `FakeClock` starts."""


class FakeClock(Clock):
    """A clock that stands still until it is told to `advance`. Not thread-safe while it is advanced."""

    __slots__ = ("_hands",)
    _hands: list[float]

    def __init__(self, *, monotonic: float = 1000.0, wall: float = NOON) -> None:
        hands = [monotonic, wall]
        super().__init__(monotonic=lambda: hands[0], wall=lambda: hands[1])
        object.__setattr__(self, "_hands", hands)  # the base class is frozen: its two functions never change

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both hands. Raises ValueError for a step back, which no monotonic clock takes."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: advance({seconds!r})")
        self._hands[0] += seconds
        self._hands[1] += seconds


class Recorder:
    """A reporter that keeps every event it is told, oldest first: ``install(on_leak=Recorder())``."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        """Keep one event; leakguard calls this."""
        self.events.append(event)

    @property
    def leaks(self) -> list[Leak]:
        """The leaks told so far. A flood of one bug is folded: read the `count` of its last one."""
        return [event for event in self.events if isinstance(event, Leak)]

    @property
    def recovered(self) -> list[Recovered]:
        """The suspected holds that came back after all."""
        return [event for event in self.events if isinstance(event, Recovered)]

    @property
    def exhausted(self) -> list[Exhausted]:
        """The acquires that failed for want of a connection."""
        return [event for event in self.events if isinstance(event, Exhausted)]

    @property
    def summaries(self) -> list[Summary]:
        """The summaries: one for each guard that has ended."""
        return [event for event in self.events if isinstance(event, Summary)]

    def of_kind(self, kind: str) -> list[Leak]:
        """The leaks of one kind, such as ``"overdue"``."""
        return [leak for leak in self.leaks if leak.kind == kind]

    def clear(self) -> None:
        """Forget what has been told so far."""
        self.events.clear()


class FakeTime:
    """What `fake_time()` yields: the `clock` of this process's leakguard, and the way to move it."""

    def __init__(self, clock: FakeClock, runtime: Runtime) -> None:
        self.clock = clock
        self.runtime = runtime

    def advance(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, with everything that the watchdog thread would have judged and reported meanwhile.

        A finding is made at its very moment, and so are those that are due at the end of the step; ``advance()``
        alone judges what is due now.
        """
        clock = self.clock
        end = clock.monotonic() + seconds
        self.runtime.beat()
        while (left := end - clock.monotonic()) > 0:
            # A thousandth at least, as the judge itself waits: a step too small for the clock would never end.
            clock.advance(min(left, max(self.runtime.rounds.judge.wait_for(clock.monotonic()), 0.001)))
            self.runtime.beat()


@contextmanager
def fake_time() -> Iterator[FakeTime]:
    """Run leakguard on a `FakeClock` for the length of a ``with`` block, without its watchdog thread.

    Guards are installed inside the block; those that are left at its end are uninstalled. Raises RuntimeError while
    one is installed outside it. Only leakguard's time stands still: pools and drivers go on by the real clock.
    """
    if runtime.current().guards:
        raise RuntimeError("leakguard is installed: fake_time() has to begin before install() or watch()")
    clock = FakeClock()
    ours = Runtime(clock, threaded=False)
    previous = runtime.replace_current(ours)
    try:
        yield FakeTime(clock, ours)
    finally:
        ours.unpin()
        for guard in list(ours.guards):
            guard.uninstall()
        runtime.replace_current(previous)


# ------------------------------------------------------------------------------------------------------ unittest


class LeakedInTest(ConnectionLeakError, AssertionError):
    """A test leaked: what `LeakGuardMixin` fails a test with. ``leaks`` holds the findings; ``str()`` is the report."""


class LeakWarning(UserWarning):
    """A test leaked, and is not failed for it: with ``leakguard_mode = "warn"``, or because it has failed anyway."""


PAUSES: Final = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1)
"""Seconds between the looks at what a test has left open: a thread or task may be about to give it back."""

_POOL_THREAD: Final = re.compile(r"-(worker-\d+|scheduler)$")

if TYPE_CHECKING:
    _TestCase = unittest.TestCase
else:
    _TestCase = object


class LeakGuardMixin(_TestCase):
    """Makes each test of a ``unittest.TestCase`` a boundary: one that leaks a connection or a pool fails.

    Put it first: ``class T(LeakGuardMixin, TestCase)``, also of Django or ``IsolatedAsyncioTestCase``. What
    ``setUpClass`` acquires belongs to the class and is judged after ``tearDownClass`` and the class's cleanups. Works
    without `install()`. A leak in a test that has failed anyway is a `LeakWarning`: its traceback may hold the object.
    """

    leakguard_mode: ClassVar[Literal["fail", "warn", "off"]] = "fail"
    """``"warn"`` makes a `LeakWarning` of every leak, ``"off"`` looks for none."""
    leakguard_allow: ClassVar[int] = 0
    """So many leaks of a test, or of the class, are let pass."""

    _leakguard_life: ClassVar[_Life | None] = None
    _leakguard_late: tuple[HoldRecord, ...] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        mode: object = cls.leakguard_mode
        if mode not in ("fail", "warn", "off"):
            raise SettingsError(
                f'{cls.__qualname__}.leakguard_mode = {mode!r} is not accepted: "fail", "warn" or "off"'
            )
        allow: object = cls.leakguard_allow
        if isinstance(allow, bool) or not isinstance(allow, int) or allow < 0:
            raise SettingsError(
                f"{cls.__qualname__}.leakguard_allow = {allow!r} is not accepted: how many leaks a test may have"
            )
        order = cls.__mro__
        if unittest.TestCase in order and order.index(unittest.TestCase) < order.index(LeakGuardMixin):
            raise TypeError(f"{cls.__qualname__}: LeakGuardMixin has to stand before TestCase among the base classes")
        own = cls.__dict__.get("setUpClass")
        if isinstance(own, classmethod):  # it need not call ours, and what it acquires has to be seen
            cls.setUpClass = classmethod(_after_begin(own.__func__))  # type: ignore[method-assign,assignment]

    @classmethod
    def setUpClass(cls) -> None:
        """The class begins."""
        cls._leakguard_begin()
        super().setUpClass()

    @classmethod
    def doClassCleanups(cls) -> None:
        """The class has ended: judge what is its own. Called by unittest and pytest after ``tearDownClass``."""
        super().doClassCleanups()
        life = cls.__dict__.get("_leakguard_life")
        if life is None:
            return
        try:
            cls._leakguard_end(life)
        except LeakedInTest:
            errors: list[Any] = cls.tearDown_exceptions  # type: ignore[attr-defined]
            errors.append(sys.exc_info())

    @classmethod
    def _leakguard_begin(cls) -> bool:
        if cls.leakguard_mode == "off" or cls.__dict__.get("_leakguard_life") is not None:
            return False
        cls._leakguard_life = _Life()
        return True

    @classmethod
    def _leakguard_end(cls, life: _Life) -> None:
        cls._leakguard_life = None
        window = _Window(life, life.first)
        with life.stack:
            for pause in window.pauses():
                if _others_run():
                    time.sleep(pause)
            leaks = window.judge(f"when {cls.__qualname__} had been torn down")
        _tell(leaks, cls.leakguard_mode, cls.leakguard_allow)

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        """Run the test between two boundaries; the second one is a cleanup, the last of all."""
        cls = type(self)
        alone = cls._leakguard_begin()  # nobody has called setUpClass: one test is run by hand
        life: _Life | None = cls.__dict__.get("_leakguard_life")
        if life is None:
            return super().run(result)
        window = _Window(life, life.runtime.tracker.last_serial())
        before = _problems(result)

        def check() -> None:
            for pause in window.pauses():
                if _others_run():
                    time.sleep(pause)
            self._leakguard_check(window, failed=self._leakguard_failed(result, before))

        async def check_async() -> None:
            for pause in window.pauses():
                if _others_run() or len(asyncio.all_tasks()) > 1:
                    await asyncio.sleep(pause)
            self._leakguard_check(window, failed=self._leakguard_failed(result, before))

        if isinstance(self, unittest.IsolatedAsyncioTestCase):
            self.addAsyncCleanup(check_async)
        else:
            self.addCleanup(check)
        try:
            with entered(test=self.id()):
                result = super().run(result)
            self._leakguard_check_late(window, result)
        finally:
            if alone:
                cls._leakguard_life = None
                life.stack.close()
        return result

    def _leakguard_check(self, window: _Window, *, failed: bool) -> None:
        # The loop that ends with this test cancels its tasks, which may well give back what they hold.
        self._leakguard_late = tuple(hold for hold in window.holds() if _runs_in_a_task(hold))
        leaks = window.judge("when the test had ended", leave=self._leakguard_late)
        _tell(leaks, "warn" if failed else self.leakguard_mode, self.leakguard_allow)

    def _leakguard_check_late(self, window: _Window, result: unittest.TestResult | None) -> None:
        late, self._leakguard_late = self._leakguard_late, ()
        if not any(hold.ended is None for hold in late):
            return
        try:
            _tell(window.judge("when the test's event loop had ended"), self.leakguard_mode, self.leakguard_allow)
        except LeakedInTest:
            if result is None:
                raise
            result.addFailure(self, sys.exc_info())

    def _leakguard_failed(self, result: unittest.TestResult | None, before: int | None) -> bool:
        now = _problems(result)
        if before is not None and now is not None:
            return now > before
        outcome: Any = getattr(self, "_outcome", None)  # a result that keeps no lists, such as pytest's
        return not getattr(outcome, "success", True)


class _Life:
    """One test class while it runs: what is watched, and what was found so far."""

    def __init__(self) -> None:
        self.runtime = runtime.current()
        self.stack = ExitStack()
        self.stack.enter_context(self.runtime.instrumented())
        self.stack.enter_context(self.runtime.rounds.collecting(self._collect))
        self.first = self.runtime.tracker.last_serial()
        self.found: list[tuple[int, Leak]] = []

    def _collect(self, finding: Finding, leak: Leak) -> None:
        if leak.certain:
            self.found.append((finding.hold.serial if finding.hold is not None else finding.pool.serial, leak))


class _Window:
    """What was acquired since a moment, in whatever thread, but for the threads that were there before and go on."""

    def __init__(self, life: _Life, first: int) -> None:
        self._life = life
        self._first = first
        self._is_class = first == life.first
        self._residents = frozenset() if self._is_class else frozenset(threading._active) - {threading.get_ident()}  # type: ignore[attr-defined]

    def holds(self) -> list[HoldRecord]:
        """What is held and will not be excused."""
        found = [
            hold
            for hold in self._life.runtime.tracker.holds()
            if hold.serial > self._first
            and hold.allowed is None
            and not hold.proven
            and hold.pool.watch is not None
            and not self._is_residents(hold)
        ]
        kept = _django_connections() if found else frozenset()
        return [hold for hold in found if hold.wire is None or id(hold.wire.connection()) not in kept]

    def _is_residents(self, hold: HoldRecord) -> bool:
        """Whether a thread that is older than the test holds it: what a server thread keeps is the class's."""
        return hold.owner.ident in self._residents and hold.owner.ended_at is None and hold.owner.task_ref is None

    def pools(self) -> list[PoolRecord]:
        """The pools that were made here and still have connections open."""
        return [
            record
            for record in list(self._life.runtime.tracker.pools.values())
            if record.serial > self._first
            and record.created is not None
            and record.watch is not None
            and not record.disposed
            and not record.unclosed_told
            and record.idle()
        ]

    def pauses(self) -> Iterator[float]:
        """The pauses to make while something is open; nothing at all after a clean test."""
        tracker = self._life.runtime.tracker
        if tracker.last_serial() == self._first and tracker.signals.empty():
            return
        for number, pause in enumerate(PAUSES):
            self._life.runtime.rounds.work()
            if not self.holds() and not self.pools():
                return
            if number == 2:
                gc.collect()
            yield pause

    def judge(self, where: str, leave: Sequence[HoldRecord] = ()) -> list[Leak]:
        """Judge what is left, but for those to `leave`; everything certain that was found of this window."""
        current, life = self._life.runtime, self._life
        if self.holds() or self.pools():
            gc.collect()
            current.rounds.work(everything=True)
            time.sleep(0.001)  # Python 3.13 hands a signal to the watchdog that waits for it: let it take that over
            current.rounds.work(everything=True)
            holds = [hold for hold in self.holds() if all(hold is not other for other in leave)]
            pools = [record for record in self.pools() if not _is_kept(record.pool())]
            current.rounds.work(boundary="test", crossing=holds, outliving=pools, where=where)
        mine = [leak for serial, leak in life.found if serial > self._first]
        life.found[:] = [one for one in life.found if one[0] <= self._first]
        for guard in current.guards:
            guard.told(mine)
        return mine


def _after_begin(function: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(function)
    def setUpClass(cls: type[LeakGuardMixin], *args: Any, **kwargs: Any) -> object:
        cls._leakguard_begin()
        return function(cls, *args, **kwargs)

    return setUpClass


def _tell(leaks: list[Leak], mode: str, allow: int) -> None:
    if len(leaks) <= allow:
        return
    error = leak_error(leaks)
    if mode == "warn":
        warnings.warn(str(error), LeakWarning, stacklevel=2)
    else:
        raise LeakedInTest(leaks, lambda _: str(error))


def _problems(result: unittest.TestResult | None) -> int | None:
    failures, errors = getattr(result, "failures", None), getattr(result, "errors", None)
    return len(failures) + len(errors) if isinstance(failures, list) and isinstance(errors, list) else None


def _others_run() -> bool:
    """Whether a thread runs that could give something back; those that psycopg_pool starts for itself never do."""
    active = list(threading._active.values())  # type: ignore[attr-defined]
    return sum(not _POOL_THREAD.search(thread.name) for thread in active) > 1


def _runs_in_a_task(hold: HoldRecord) -> bool:
    task = hold.owner.task
    return task is not None and not task.done() and not task.get_loop().is_closed()


def _is_kept(pool: object) -> bool:
    """Whether a module or a class refers to the pool: a lazily made global one belongs to no test."""
    path = reference_path(pool)
    return path.cut is not None or (path.rooted and path.steps[-1].kind in ("global", "class"))


def _django_connections() -> frozenset[int]:
    """The ids of the connections that Django keeps open from one request to the next: one an alias and thread."""
    django_db: Any = sys.modules.get("django.db")
    try:
        wrappers = django_db.connections.all(initialized_only=True) if django_db is not None else []
        return frozenset(id(wrapper.connection) for wrapper in wrappers if wrapper.connection is not None)
    except Exception:  # no settings, or a Django of another day
        return frozenset()
