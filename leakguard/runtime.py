"""The process's one runtime: patches, judge, watchdog and guards put together.

There is one tracker and one judge for all guards; each pool belongs to one of them. Everything is judged under one
lock and told after it: no reporter, no exception and no other lock is ever inside it.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import time
from _queue import Empty
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from leakguard.clock import SYSTEM_CLOCK, Clock
from leakguard.guard import Guard, leak_error
from leakguard.incident.exhaustion import Exhaustion
from leakguard.judge import SETTLING, Finding, Judge, Outcome
from leakguard.libraries import Libraries
from leakguard.model import Boundary, Cause, Event, Leak
from leakguard.records import HoldRecord, PoolRecord, Watch
from leakguard.settings import Settings, resolve
from leakguard.snapshot import Snapshots
from leakguard.stacks import FrameRules
from leakguard.tracker import Changed, Refused, Returned, Signal, Tracker
from leakguard.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

TELLING_LIMIT: Final = 2.0
"""Seconds that the end of a check, a guard or the process waits for a reporter that another thread is in."""
HAND_LIMIT: Final = 0.5
"""Seconds that a check waits for the watchdog to take up a signal; it needs far less than a millisecond."""
_HANDS_OVER: Final = sys.hexversion >= 0x030D0000
_MODES: Final = ("off", "site", "auto", "full")


class Runtime:
    """Everything leakguard does in this process. Thread-safe; fork-safe through `after_fork`.

    With `threaded` false there is no watchdog, and the caller beats by hand: that is for tests with a clock of their
    own.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK, *, threaded: bool = True) -> None:
        self.tracker = Tracker(clock)
        self.snapshots = Snapshots(self.tracker)
        self.libraries = Libraries(self.tracker)
        self._exhaustion = Exhaustion(self.tracker, self.snapshots)
        self.guards: list[Guard] = []
        self.process_guard: Guard | None = None
        self.companions: list[Callable[[Event], object]] = []
        self._clock = clock
        self._threaded = threaded
        self._judge = self._new_judge()
        self._lock = threading.Lock()
        self._worker: int | None = None
        self._admin = threading.RLock()
        self._watchdog = Watchdog(self.beat, lambda: self.tracker.signals.put(None))
        self._in_hand: deque[Signal] = deque()
        self._failed: deque[Exception] = deque()
        self._waiting = False
        self._rounds = 0
        self._telling: dict[int, int] = {}
        self._at_process_end = False
        self._collectors: list[Callable[[Finding, Leak], None]] = []
        self._ended = False
        self._pinned: Settings | None = None
        self._temporary: Guard | None = None
        self._sharing = 0
        if threaded:
            self.tracker.wake = self._watchdog.ensure

    def _new_judge(self) -> Judge:
        # Without a watchdog nobody looks while a finalizer runs: whoever beats by hand need not wait for it.
        return Judge(self.tracker, SETTLING if self._threaded else 0.0)

    # ------------------------------------------------------------------ guards

    def install(self, settings: Mapping[str, object]) -> Guard:
        """The guard of the whole process; the same one, with these settings applied, if there is one already."""
        with self._admin:
            if self.process_guard is not None:
                guard = self.process_guard
                if guard is self._temporary:  # the application installs itself inside a no_leaks() block
                    guard.watch.settings, self._temporary = resolve(settings), None
                    guard.make_reporters()
                self.apply(guard, settings)
                return guard
            guard = Guard(self, resolve(settings))
            if guard.settings.enabled:
                self.process_guard = guard
                self.tracker.process_watch = guard.watch
                self._add(guard)
            return guard

    def pin(self, companion: Callable[[Event], object]) -> None:
        """``leakguard run`` owns the process's guard: an application that uninstalls its own brings this one back.

        `companion` is told every event of every guard, whatever reporters the application asks for.
        """
        assert self.process_guard is not None
        self._pinned = self.process_guard.settings
        self.companions.append(companion)
        self.process_guard.keep_report()

    def unpin(self) -> None:
        """The process's guard may be uninstalled again."""
        self._pinned = None

    def rest(self) -> None:
        """No watchdog from now on: the caller asks for `work` at its own boundaries.

        A test run does: a thread of ours would be seen by tests that count threads or fork.
        """
        self.tracker.wake = lambda: None
        self._watchdog.stop()
        self._judge = Judge(self.tracker, 0.0)  # as without threads: nobody looks while a finalizer runs

    def rise(self) -> None:
        """The watchdog starts again with the next server connection or pool."""
        if self._threaded:
            self.tracker.wake = self._watchdog.ensure
            if not self.guards:
                self._judge = self._new_judge()

    def watch(self, matches: Callable[[object], bool], settings: Mapping[str, object]) -> Guard:
        """A guard for the pools that `matches` says yes to."""
        with self._admin:
            guard = Guard(self, resolve(settings))
            if guard.settings.enabled:
                self.tracker.targets.insert(0, (matches, guard.watch))
                self._add(guard)
            return guard

    @contextmanager
    def instrumented(self) -> Iterator[None]:
        """The whole process is watched for the length of a ``no_leaks()`` block.

        Where no guard is installed by a temporary one, which reports to nobody. Blocks that overlap share it, and the
        last of them takes it away.
        """
        with self._admin:
            if self.process_guard is None:
                self._temporary = self.install({"on_leak": lambda _event: None, "report": None, "enabled": True})
                self._sharing = 0
            shared = self._temporary
            self._sharing += 1
        try:
            yield
        finally:
            with self._admin:
                self._sharing -= 1
                if shared is not None and shared is self._temporary and not self._sharing:
                    self._temporary = None
                    shared.uninstall()

    def apply(self, guard: Guard, settings: Mapping[str, object]) -> None:
        """Apply settings on top of the guard's own. Raises SettingsError, and then changes nothing."""
        with self._admin:
            before, after = guard.settings, resolve(settings, base=guard.settings)
            guard.watch.settings = after
            if (before.on_leak, before.report) != (after.on_leak, after.report):
                guard.make_reporters()
            if not after.enabled:
                self.remove(guard)
            self._record_stacks()
            for hold in self.tracker.holds():
                if hold.pool.watch is guard.watch:
                    self.tracker.signals.put(Changed(hold))  # its limits: the old ones may be far off

    def _add(self, guard: Guard) -> None:
        first = not self.guards
        self.guards.append(guard)
        self._ended = False
        self._record_stacks()
        self.tracker.assign()
        if first:
            _at_fork_once()
            atexit.register(self.at_exit)
            more = {
                "asyncio": self.tracker.owners.enable_asyncio,
                "multiprocessing.util": self._watch_process_end,
            }
            self.libraries.install(self, more)

    def remove(self, guard: Guard) -> None:
        """End a guard: tell what is folded, then its summary; the last one takes the patches along."""
        with self._admin:
            if guard not in self.guards:
                return
            if guard is self.process_guard and self._pinned is not None:
                guard.watch.settings = self._pinned
                guard.make_reporters()
                return
            self.work()
            self._say_last(guard)
            self.guards.remove(guard)
            if guard is self.process_guard:
                self.process_guard = self.tracker.process_watch = None
            self.tracker.targets[:] = [target for target in self.tracker.targets if target[1] is not guard.watch]
            self.tracker.forget_watch(guard.watch)
            self.tracker.assign()
            self._record_stacks()
            guard.close_reporters()
            if not self.guards:
                self._tear_down()

    def _tear_down(self) -> None:
        self.libraries.undo()
        atexit.unregister(self.at_exit)
        self._watchdog.stop()
        self.tracker.clear()
        self._judge = self._new_judge()
        while not self.tracker.signals.empty():
            self.tracker.signals.get()

    def _record_stacks(self) -> None:
        """One recorder serves all guards: it captures what the most demanding of them asks for."""
        packages = {name: None for guard in self.guards for name in guard.settings.app_packages}
        recorder = self.tracker.recorder
        if recorder.rules.app_packages != tuple(packages):
            recorder.rules = FrameRules(tuple(packages))
        recorder.mode = max((guard.settings.stacks for guard in self.guards), key=_MODES.index, default="auto")

    # ------------------------------------------------------------------ what the integrations ask for

    @property
    def internal_errors(self) -> int:
        """How many errors of leakguard's own were counted so far."""
        return self.libraries.internal_errors

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count and log, once, an error of leakguard's own; the application does not notice."""
        self.libraries.internal_error(where, error)

    def raise_pending(self, leaks: list[object]) -> None:
        """Raise the leaks that ``on_leak="raise"`` has waiting."""
        raise leak_error([leak for leak in leaks if isinstance(leak, Leak)])

    def _watch_process_end(self) -> None:
        # A child of multiprocessing leaves by os._exit(), past atexit; its own finalizers are the last to run. Like
        # os.register_at_fork this cannot be taken back, so it is done once.
        from multiprocessing import util

        if not self._at_process_end:
            self._at_process_end = True
            util.register_after_fork(self, lambda runtime: util.Finalize(None, runtime.at_exit, exitpriority=-100))

    # ------------------------------------------------------------------ exhaustion

    def exhausted(
        self,
        error: BaseException,
        *,
        watch: Watch,
        pool: PoolRecord | None,
        cause: Cause,
        holds: list[HoldRecord],
        server_words: str | None = None,
    ) -> None:
        """Put the holders on the exception, and have an event told. Called by the thread whose acquire failed."""
        self._exhaustion.tell(error, watch=watch, pool=pool, cause=cause, holds=holds, server_words=server_words)

    # ------------------------------------------------------------------ judging and telling

    def beat(self, *, block: bool = False) -> None:
        """One round of the watchdog. Never raises."""
        try:
            if block:
                wait = self._judge.wait_for(self._clock.monotonic())
                self._waiting = True
                try:
                    # From the queue into the hand in one step of C, in which no other thread can run: a check() that
                    # comes in between would find the signal in neither, and call a leak clean.
                    self._in_hand.extend(map(self.tracker.signals.get, (True,), (wait,)))
                except Empty:
                    pass
                finally:
                    self._waiting = False
                    self._rounds += 1
            self.work()
        except Exception as error:
            self.internal_error("watchdog", error)

    def work(
        self,
        *,
        everything: bool = False,
        boundary: Boundary | None = None,
        crossing: Iterable[HoldRecord] = (),
        outliving: Iterable[PoolRecord] = (),
        where: str = "",
    ) -> None:
        """Judge what has happened and what is due (or `everything` that is held), then tell it.

        At a `boundary`, which `where` words, also the holds that are `crossing` it and the pools `outliving` it.
        """
        me = get_ident()
        if self._worker == me:
            return  # a signal handler or a reporter's finalizer interrupted us: the outer call does the work
        told: list[tuple[Guard, Event]] = []
        if everything:
            self._fill_hand()
        with self._lock:
            self._worker = me
            try:
                now = self._clock.monotonic()
                self._enter(self._drain(now), now, told)
                self._enter(self._judge.sweep(now), now, told)
                if everything:
                    self._enter(self._judge.judge_all(now), now, told)
                self._enter(self._drain(now), now, told)  # what judging has brought to light
                if boundary is not None:
                    found = [self._judge.outstanding(hold, boundary, now, where) for hold in crossing]
                    found += [self._judge.unclosed(record, now, where) for record in outliving]
                    self._enter([finding for finding in found if finding is not None], now, told)
                for guard in self.guards:
                    told += [(guard, event) for event in guard.folded(now)]
            finally:
                self._worker = None
        while self._failed:
            self.internal_error("judge", self._failed.popleft())
        self._tell(told)

    def _fill_hand(self) -> None:
        """Have a signal that is on its way to the watchdog arrive in its hand, where everybody can see it.

        From Python 3.13 on, a ``SimpleQueue`` gives what is put straight to the thread that waits for it, which may
        have to wait for the interpreter's lock before it can do anything with it.
        """
        rounds = self._rounds
        if not (_HANDS_OVER and self._waiting):
            return
        self.tracker.signals.put(None)
        deadline = time.monotonic() + HAND_LIMIT
        while self._rounds == rounds and time.monotonic() < deadline:
            time.sleep(0.0002)

    def _tell(self, told: list[tuple[Guard, Event]]) -> None:
        """Tell the reporters, with no lock held: one of them may call us, or block for a minute."""
        if not told:
            return
        me = get_ident()
        self._telling[me] = self._telling.get(me, 0) + 1
        try:
            for guard, event in told:
                guard.deliver(event)
        finally:
            self._telling[me] -= 1
            if not self._telling[me]:
                del self._telling[me]

    def _let_finish(self) -> None:
        """Wait a little until no other thread is telling: what it found is told before we say what came of it all."""
        deadline = time.monotonic() + TELLING_LIMIT
        while any(thread != get_ident() for thread in list(self._telling)) and time.monotonic() < deadline:
            time.sleep(0.002)

    def _drain(self, now: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        signals = self.tracker.signals
        while True:
            try:
                signal = self._in_hand.popleft() if self._in_hand else signals.get_nowait()
            except Empty:
                return outcomes
            if not self._ended:
                outcomes += self._judge.take(signal, now)

    def _enter(self, outcomes: Iterable[Outcome], now: float, told: list[tuple[Guard, Event]]) -> None:
        for outcome in outcomes:
            try:
                self._enter_one(outcome, now, told)
            except Exception as error:  # what cannot be told must not cost the others of the same round
                self._failed.append(error)

    def _enter_one(self, outcome: Outcome, now: float, told: list[tuple[Guard, Event]]) -> None:
        match outcome:
            case Finding():
                guard = self._guard_of(outcome.watch)
                if guard is None:
                    return
                leak, tell = guard.enter(outcome)
                if leak is None:
                    return
                for collect in self._collectors:
                    collect(outcome, leak)
                if tell:
                    told.append((guard, leak))
            case Returned():
                guard = self._guard_of(outcome.hold.pool.watch)
                if guard is not None:
                    told += [(guard, event) for event in guard.recovered(outcome)]
            case Refused():
                guard = self._guard_of(outcome.watch)
                refusal = guard.enter_refusal(outcome.event, now) if guard is not None else None
                if guard is not None and refusal is not None:
                    told.append((guard, refusal))

    def _guard_of(self, watch: Watch | None) -> Guard | None:
        return next((guard for guard in self.guards if guard.watch is watch), None)

    def check(self, guard: Guard) -> list[Leak]:
        """Judge everything now; returns what the guard has found since it was last asked."""
        gc.collect()
        self.work(everything=True)
        self._let_finish()
        return guard.fetch()

    @contextmanager
    def collecting(self, collect: Callable[[Finding, Leak], None]) -> Iterator[None]:
        """Hand every finding to `collect` too, under the lock, for the length of a ``with`` block."""
        self._collectors.append(collect)
        try:
            yield
        finally:
            self._collectors.remove(collect)

    def _say_last(self, guard: Guard) -> None:
        self._let_finish()
        for event in [*guard.folded(self._clock.monotonic(), everything=True), guard.summary()]:
            guard.deliver(event)

    # ------------------------------------------------------------------ the end, and the fork

    def at_exit(self) -> None:
        """At the end of the process: collect once, judge, tell, write the summaries, judge no more. Idempotent."""
        if self._ended or not self.guards:
            return
        try:
            gc.collect()
            self.work(everything=True, boundary="exit", crossing=self.tracker.holds())
            self._ended = True
            for guard in self.guards:
                self._say_last(guard)
        except Exception as error:
            self.internal_error("exit", error)
        finally:
            self._ended = True
            self.tracker.process_watch = None
            self.tracker.targets.clear()
            self.tracker.assign()

    def after_fork(self) -> None:
        """In a forked child: the parent's holds, counts, threads and locks are not ours."""
        self._lock = threading.Lock()
        self._worker = None
        self._admin = threading.RLock()
        self._ended = False
        self.libraries.forget_errors()
        self._collectors.clear()
        self._in_hand.clear()
        self._telling.clear()
        self._waiting = False
        self._watchdog.forget()
        for guard in self.guards:
            guard.after_fork()
        self.tracker.forget_parent()
        self._judge = self._new_judge()


_current = Runtime()
_fork_hooked = False


def current() -> Runtime:
    """The runtime of this process."""
    return _current


def replace_current(runtime: Runtime) -> Runtime:
    """Make another runtime this process's one, for tests with a clock of their own; returns the previous one."""
    global _current
    assert not _current.guards, "a guard is installed: uninstall it first"
    previous, _current = _current, runtime
    return previous


def _at_fork_once() -> None:
    # os.register_at_fork cannot be taken back, so it is done once and asks for the runtime of the day.
    global _fork_hooked
    if not _fork_hooked:
        _fork_hooked = True
        os.register_at_fork(after_in_child=lambda: _current.after_fork() if _current.guards else None)
