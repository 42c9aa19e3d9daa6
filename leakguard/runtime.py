"""The process's one runtime: patches, judge, watchdog and guards put together.

There is one tracker and one judge for all guards; each pool belongs to one of them. Everything is judged under one
lock and told after it: no reporter, no exception and no other lock is ever inside it.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from _queue import Empty
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from leakguard import healing
from leakguard.clock import SYSTEM_CLOCK, Clock
from leakguard.errors import SettingsError
from leakguard.guard import Guard, leak_error
from leakguard.incident.exhaustion import Exhaustion
from leakguard.incident.files import Incidents
from leakguard.judging.judge import SETTLING, Finding, Judge, Outcome
from leakguard.libraries import Libraries
from leakguard.live.desk import Desk
from leakguard.model import Boundary, Cause, Event, Leak, Snapshot
from leakguard.process import daemon
from leakguard.process.endings import Endings
from leakguard.process.native import RLock, get_ident, sleep
from leakguard.register.records import HoldRecord, PoolRecord, Watch
from leakguard.register.signals import Changed, Refused, Returned, Signal
from leakguard.register.stacks import FrameRules
from leakguard.register.tracker import Tracker
from leakguard.settings import Settings, resolve
from leakguard.telling.census import Question
from leakguard.telling.delivery import TELLING_LIMIT, Delivery, Outlet
from leakguard.telling.snapshot import Snapshots
from leakguard.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

STALL: Final = 5.0
"""Seconds that the watchdog has to be late before the whole process counts as stopped: by a signal, a debugger, or
with its machine. A busy one is late by far less."""
HAND_LIMIT: Final = 0.5
"""Seconds that a check waits for the watchdog to take up a signal; it needs far less than a millisecond."""
INCIDENT_LIMIT: Final = 5.0
"""Seconds that the process waits at its end for an incident file that is being written."""
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
        self._desk = Desk(self)
        self._incidents = Incidents(self._desk, clock.monotonic, self.internal_error, threaded=threaded)
        self._exhaustion = Exhaustion(self.tracker, self.snapshots, self._incidents.file_of)
        self.guards: list[Guard] = []
        self.process_guard: Guard | None = None
        self.companions: list[Outlet] = []
        self._delivery = Delivery()
        self._clock = clock
        self._threaded = threaded
        self._judge = self._new_judge()
        # Re-entrant for a signal handler that checks, and comes when `_worker` is not written yet.
        self._lock = RLock()
        self._worker: int | None = None
        self._admin = RLock()
        self._watchdog = Watchdog(self.beat, lambda: self.tracker.signals.put(None))
        self._in_hand: deque[Signal] = deque()
        self._failed: deque[Exception] = deque()
        self._to_heal: deque[tuple[Finding, Leak]] = deque()
        self._waiting = False
        self._rounds = 0
        self._endings = Endings(self)
        self._collectors: list[Callable[[Finding, Leak], None]] = []
        self._ended = False
        self._pinned: Settings | None = None
        self._temporary: Guard | None = None
        self._sharing = 0
        if threaded:
            self.tracker.wake = self._wake

    def _wake(self) -> None:
        self._watchdog.ensure()
        self._desk.open()

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
                self._add(guard)
            return guard

    def pin(self, companion: Callable[[Event], object]) -> None:
        """``leakguard run`` owns the process's guard: an application that uninstalls its own brings this one back.

        `companion` is told every event of every guard, whatever reporters the application asks for.
        """
        assert self.process_guard is not None
        self._pinned = self.process_guard.settings
        self.accompany(companion)
        self.process_guard.keep_report()

    def accompany(self, companion: Callable[[Event], object]) -> None:
        """Tell `companion` every event of every guard from now on."""
        self.companions.append(self.outlet(companion))

    def part_from(self, companion: Callable[[Event], object]) -> None:
        """Tell `companion` no more. Nothing happens if it is not told."""
        self.companions[:] = [outlet for outlet in self.companions if outlet.report != companion]

    def unpin(self) -> None:
        """The process's guard may be uninstalled again."""
        self._pinned = None

    def rest(self) -> None:
        """No watchdog from now on: the caller asks for `work` at its own boundaries.

        A test run does: a thread of ours would be seen by tests that count threads or fork.
        """
        self.tracker.wake = lambda: None
        self._watchdog.stop()
        self._desk.close()
        self._judge = Judge(self.tracker, 0.0)  # as without threads: nobody looks while a finalizer runs

    def rise(self) -> None:
        """The watchdog starts again with the next server connection or pool."""
        if self._threaded:
            self.tracker.wake = self._wake
            if not self.guards:
                self._judge = self._new_judge()

    def watch(self, matches: Callable[[object], bool], settings: Mapping[str, object]) -> Guard:
        """A guard for the pools that `matches` says yes to."""
        with self._admin:
            guard = Guard(self, resolve(settings), matches)
            if guard.settings.enabled:
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
            returns = settings.get("enabled") is not None and after.enabled and guard not in self.guards
            if returns and guard.matches is None and self.process_guard is not None:
                raise SettingsError(
                    "leakguard: enabled=True is not accepted: another guard watches the process by now, "
                    "uninstall that one first"
                )
            guard.watch.settings = after
            if (before.on_leak, before.report, before.export) != (after.on_leak, after.report, after.export):
                try:
                    guard.make_reporters()
                except SettingsError:  # an exporter whose package is missing
                    guard.watch.settings = before
                    raise
            if not after.enabled:
                self.remove(guard)
            elif returns:
                guard.make_reporters()
                self._add(guard)
            self._record_stacks()
            if guard in self.guards:
                self.libraries.add(after.integrations, self)
            self.tracker.measure()
            if not self.is_live():
                self._desk.close()
            for hold in self.tracker.holds():
                if hold.pool.watch is guard.watch:
                    self.tracker.signals.put(Changed(hold))  # its limits: the old ones may be far off

    def _add(self, guard: Guard) -> None:
        first = not self.guards
        if guard.matches is None:
            self.process_guard, self.tracker.process_watch = guard, guard.watch
        else:
            self.tracker.targets.insert(0, (guard.matches, guard.watch))
        self.guards.append(guard)
        self._ended = False
        self._record_stacks()
        self.tracker.assign()
        self.libraries.add(guard.settings.integrations, self)
        if first:
            _at_fork_once()
            atexit.register(self.at_exit)
            more = {
                "asyncio": self.tracker.owners.enable_asyncio,
                "gevent.hub": self.tracker.owners.enable_gevent,
                **self._endings.hooks(),
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
            if not self.is_live():
                self._desk.close()
            if not self.guards:
                self._tear_down()

    def _tear_down(self) -> None:
        self.libraries.undo()
        self._endings.undo()
        atexit.unregister(self.at_exit)
        self._watchdog.stop()
        self._delivery.stop()
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

    # ------------------------------------------------------------------ what this process answers

    def is_live(self) -> bool:
        """Whether this process is to have a socket: not for a ``no_leaks()`` block alone, and not at its end."""
        return not self._ended and any(guard.settings.live for guard in self.guards if guard is not self._temporary)

    def snapshot(self, *, why: bool = False) -> Snapshot:
        """What is held right now; with `why`, also what keeps the oldest hold of each bug alive. Thread-safe."""
        from leakguard.live.answer import snapshot_of

        return snapshot_of(self._desk.census(Question(why=why)))

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
        told: bool = True,
    ) -> None:
        """Put the holders on the exception, and have an event told if `told`. Called by the thread that was refused."""
        self._exhaustion.tell(
            error, watch=watch, pool=pool, cause=cause, holds=holds, server_words=server_words, told=told
        )

    # ------------------------------------------------------------------ judging and telling

    def beat(self, *, block: bool = False) -> None:
        """One round of the watchdog. Never raises."""
        try:
            if block:
                before = self._clock.monotonic()
                wait = self._judge.wait_for(before)
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
                self._look_for_stall(before + wait)
            self.work(aside=block)
            self._delivery.tend()
            if daemon.are_left_alone():
                self._leave()
        except Exception as error:
            self.internal_error("watchdog", error)

    def _look_for_stall(self, expected: float) -> None:
        now = self._clock.monotonic()
        if now - expected > STALL:
            self._judge.excuse(now, now - expected)

    def work(
        self,
        *,
        everything: bool = False,
        boundary: Boundary | None = None,
        crossing: Iterable[HoldRecord] = (),
        outliving: Iterable[PoolRecord] = (),
        where: str = "",
        aside: bool = False,
    ) -> None:
        """Judge what has happened and what is due (or `everything` that is held), then tell it.

        At a `boundary`, which `where` words, also the holds that are `crossing` it and the pools `outliving` it. With
        `aside`, another thread calls the reporters.
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
        while self._to_heal:
            try:
                healing.heal(*self._to_heal.popleft(), self.libraries.say)
            except Exception as error:
                self.internal_error("reclaim", error)
        self._tell(told, aside=aside)

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
            sleep(0.0002)

    def outlet(self, report: Callable[[Event], object]) -> Outlet:
        """The way to a reporter, which may block or raise."""

        def failed(error: BaseException, off: bool) -> None:
            self.internal_error("reporter (it is switched off)" if off else "reporter", error)

        return Outlet(report, failed, self.libraries.slow_reporter)

    def _tell(self, told: list[tuple[Guard, Event]], *, aside: bool) -> None:
        """Tell the reporters, with no lock held: one of them may call us, or block for a minute.

        `aside` leaves that to another thread: the watchdog goes on watching.
        """
        for guard, event in told:
            guard.deliver(event)
        for outlet in dict.fromkeys(outlet for guard, _ in told for outlet in guard.told_by()):
            if aside:
                self._delivery.hand_over(outlet)
            else:
                outlet.drain(TELLING_LIMIT)

    def _let_finish(self) -> None:
        """What was found is told before we say what came of it all; a reporter that blocks is waited for a little."""
        for outlet in dict.fromkeys(outlet for guard in self.guards for outlet in guard.told_by()):
            outlet.drain(TELLING_LIMIT)
            outlet.finish(TELLING_LIMIT)

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
                if healing.is_asked_for(outcome):
                    self._to_heal.append((outcome, leak))
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
        self._tell([(guard, event) for event in guard.folded(self._clock.monotonic(), everything=True)], aside=False)
        self._tell([(guard, guard.summary())], aside=False)

    # ------------------------------------------------------------------ the end, and the fork

    def at_exit(self) -> None:
        """At the end of the process: collect once, judge, tell, write the summaries, judge no more. Idempotent."""
        if self._ended or not self.guards:
            return
        try:
            self._judge.leave_open(self._clock.monotonic())
            gc.collect()
            self.work(everything=True, boundary="exit", crossing=self.tracker.holds())
            self._ended = True
            for guard in self.guards:
                self._say_last(guard)
                guard.say_last()
        except Exception as error:
            self.internal_error("exit", error)
        finally:
            self._ended = True
            self.tracker.process_watch = None
            self.tracker.targets.clear()
            self.tracker.assign()
            self._desk.close()
            self._incidents.finish(INCIDENT_LIMIT)

    def _leave(self) -> None:
        """Let the process end, which nobody but our own threads is keeping."""
        self.at_exit()
        self._desk.close()
        self._delivery.stop()
        self._watchdog.stop()

    def at_executors_exit(self, threads: Collection[int]) -> None:
        """The interpreter is about to end the threads (idents) of executors that nobody has shut down. Never raises."""
        try:
            if self.guards:
                self._judge.leave_open(self._clock.monotonic(), threads)
        except Exception as error:
            self.internal_error("exit", error)

    def after_fork(self) -> None:
        """In a forked child: the parent's holds, counts, threads and locks are not ours."""
        self._lock = RLock()
        self._worker = None
        self._admin = RLock()
        self._ended = False
        self.libraries.forget_errors()
        self._collectors.clear()
        self._in_hand.clear()
        self._to_heal.clear()
        self._delivery.forget()
        for outlet in self.companions:
            outlet.forget()
        self._waiting = False
        daemon.forget()
        self._watchdog.forget()
        self._desk.after_fork()
        self._incidents.forget()
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
