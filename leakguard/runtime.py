"""The process's one runtime: patches, judge, watchdog and guards put together.

There is one tracker and one judge for all guards; each pool belongs to one of them. What guards there are changes under
one lock, what they find is judged under another (`Rounds`).
"""

from __future__ import annotations

import atexit
import gc
import os
import weakref
from collections.abc import Callable, Collection, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from leakguard.clock import SYSTEM_CLOCK, Clock
from leakguard.errors import SettingsError
from leakguard.guard import Guard, leak_error
from leakguard.incident.exhaustion import Exhaustion
from leakguard.incident.files import Incidents
from leakguard.judging.judge import SETTLING
from leakguard.libraries import Libraries
from leakguard.live.desk import Desk
from leakguard.model import Cause, Event, Leak, Snapshot
from leakguard.process import daemon
from leakguard.process.endings import Endings
from leakguard.process.native import RLock
from leakguard.register.records import HoldRecord, PoolRecord, Watch
from leakguard.register.signals import Changed
from leakguard.register.stacks import FrameRules
from leakguard.register.tracker import Tracker
from leakguard.rounds import Rounds
from leakguard.settings import Settings, resolve
from leakguard.telling.census import Question
from leakguard.telling.delivery import Delivery, Outlet
from leakguard.telling.snapshot import Snapshots
from leakguard.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

INCIDENT_LIMIT: Final = 5.0
"""Seconds that the process waits at its end for an incident file that is being written."""
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
        self.rounds = Rounds(
            self.tracker, clock, self.guards, self.libraries, self._delivery, settling=self._settling()
        )
        self._admin = RLock()
        self._watchdog = Watchdog(self.beat, lambda: self.tracker.signals.put(None))
        self._endings = Endings(self)
        self._pinned: Settings | None = None
        self._temporary: Guard | None = None
        self._sharing = 0
        self._exit_finalizer: weakref.finalize[[], Runtime] | None = None
        if threaded:
            self.tracker.wake = self._wake

    def _wake(self) -> None:
        self._watchdog.ensure()
        self._desk.open()

    def _settling(self) -> float:
        # Without a watchdog nobody looks while a finalizer runs: whoever beats by hand need not wait for it.
        return SETTLING if self._threaded else 0.0

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
        self.rounds.begin_anew(0.0)  # as without threads: nobody looks while a finalizer runs

    def rise(self) -> None:
        """The watchdog starts again with the next server connection or pool."""
        if self._threaded:
            self.tracker.wake = self._wake
            if not self.guards:
                self.rounds.begin_anew(self._settling())

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
        self.rounds.ended = False
        self._record_stacks()
        self.tracker.assign()
        self.libraries.add(guard.settings.integrations, self)
        if first:
            _at_fork_once()
            self._register_exit()
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
            self.rounds.work()
            self.rounds.say_last(guard)
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
        atexit.unregister(self._collect_with_finalizers)
        if self._exit_finalizer is not None:
            self._exit_finalizer.detach()
        self._watchdog.stop()
        self._delivery.stop()
        self.tracker.clear()
        self.rounds.begin_anew(self._settling())
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
        return not self.rounds.ended and any(
            guard.settings.live for guard in self.guards if guard is not self._temporary
        )

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
                self.rounds.wait()
            self.rounds.work(aside=block)
            self._delivery.tend()
            if daemon.are_left_alone():
                self._leave()
        except Exception as error:
            self.internal_error("watchdog", error)

    def outlet(self, report: Callable[[Event], object]) -> Outlet:
        """The way to a reporter, which may block or raise."""

        def failed(error: BaseException, off: bool) -> None:
            self.internal_error("reporter (it is switched off)" if off else "reporter", error)

        return Outlet(report, failed, self.libraries.slow_reporter)

    def check(self, guard: Guard) -> list[Leak]:
        """Judge everything now; returns what the guard has found since it was last asked."""
        gc.collect()
        self.rounds.work(everything=True)
        self.rounds.finish()
        return guard.fetch()

    # ------------------------------------------------------------------ the end, and the fork

    def _register_exit(self) -> None:
        """Have us called at exit: to collect garbage before ``weakref.finalize`` calls all finalizers; and to judge in
        one of them, which is called after all newer ones, because an application may close what it has in those."""
        self._exit_finalizer = weakref.finalize(self, self.at_exit)
        atexit.register(self._collect_with_finalizers)

    def _collect_with_finalizers(self) -> None:
        """At the end of the process, before all finalizers are called: those of SQLAlchemy 2.1 do nothing for what is
        still referred to, and are used up then: a checkout in a reference cycle would not be returned any more."""
        try:
            if self.guards and not self.rounds.ended and self.tracker.holds():
                self.rounds.judge.leave_open(self._clock.monotonic())
                gc.collect()
        except Exception as error:
            self.internal_error("exit", error)

    def at_exit(self) -> None:
        """At the end of the process: collect once, judge, tell, write the summaries, judge no more. Idempotent."""
        if self.rounds.ended or not self.guards:
            return
        try:
            self.rounds.judge.leave_open(self._clock.monotonic())
            gc.collect()
            self.rounds.work(everything=True, boundary="exit", crossing=self.tracker.holds())
            self.rounds.ended = True
            for guard in self.guards:
                self.rounds.say_last(guard)
                guard.say_last()
        except Exception as error:
            self.internal_error("exit", error)
        finally:
            self.rounds.ended = True
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
                self.rounds.judge.leave_open(self._clock.monotonic(), threads)
        except Exception as error:
            self.internal_error("exit", error)

    def after_fork(self) -> None:
        """In a forked child: the parent's holds, counts, threads and locks are not ours."""
        self._admin = RLock()
        self.rounds.forget(self._settling())
        self.libraries.forget_errors()
        self._delivery.forget()
        for outlet in self.companions:
            outlet.forget()
        daemon.forget()
        self._watchdog.forget()
        self._desk.after_fork()
        self._incidents.forget()
        for guard in self.guards:
            guard.after_fork()
        self.tracker.forget_parent()


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
