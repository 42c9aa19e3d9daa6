"""One guard: its settings, its reporters, its counts. Turns findings into reports and tells them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

from leakguard import redact
from leakguard.errors import ConnectionLeakError
from leakguard.judging.judge import Finding, state_of
from leakguard.model import Event, Exhausted, Hold, Kind, Leak, LeakCount, Now, Recovered, Summary
from leakguard.register.ledger import BUGS_LIMIT, Ledger
from leakguard.register.records import Watch, count_of
from leakguard.register.signals import Returned
from leakguard.register.tracker import Tracker
from leakguard.settings import Reporter, Settings
from leakguard.telling.delivery import Outlet
from leakguard.telling.registry import Registry, Tally
from leakguard.telling.snapshot import Snapshots

if TYPE_CHECKING:
    from collections.abc import Mapping

UNFETCHED_LIMIT: Final = 1_000
"""The most leaks that wait for a `check()`; beyond it the oldest make room, and only the counts remember them."""


class Keeper(Protocol):
    """What a guard needs of the runtime it belongs to."""

    @property
    def tracker(self) -> Tracker:
        """The register of holds."""

    @property
    def snapshots(self) -> Snapshots:
        """Makes frozen values of records."""

    @property
    def companions(self) -> Sequence[Outlet]:
        """Reporters that every guard tells: those of ``leakguard run``."""

    def outlet(self, report: Callable[[Event], object]) -> Outlet:
        """The way to a reporter, which may block or raise."""

    @property
    def internal_errors(self) -> int:
        """How many errors of leakguard's own were counted so far."""

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count and log, once, an error of leakguard's own."""

    def check(self, guard: Guard) -> list[Leak]:
        """Judge everything now, report, and return what the guard has found since it was last asked."""

    def remove(self, guard: Guard) -> None:
        """End the guard; the last one takes all patches along."""

    def apply(self, guard: Guard, settings: Mapping[str, object]) -> None:
        """Apply settings on top of the guard's own."""


class Guard:
    """Watches a whole process, or one engine or pool; made by `install()` and `watch()`.

    A context manager: leaving it uninstalls. All methods are thread-safe.
    """

    def __init__(self, keeper: Keeper, settings: Settings, matches: Callable[[object], bool] | None = None) -> None:
        self._keeper = keeper
        self.matches = matches
        """Which pools this guard watches; None for the guard of the whole process."""
        self.watch = Watch(settings)
        self._outlets: list[Outlet] = []
        self._dropped_before = 0
        self._closers: list[Callable[[], None]] = []
        self._kept: tuple[Settings, ...] = ()
        self._leaks: Ledger[Leak] = Ledger()
        self._refusals: Ledger[Exhausted] = Ledger()
        self._unfetched: list[Leak] = []
        self.counts: dict[Kind, int] = {}
        self.found: dict[tuple[Kind, str], LeakCount] = {}
        self.certain = 0
        self._tally = Tally()
        self._registry = Registry(
            keeper.tracker,
            self.watch,
            self._tally,
            internal_errors=lambda: keeper.internal_errors,
            dropped_events=lambda: self.dropped_events,
            failed=keeper.internal_error,
        )
        self.make_reporters()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.watch.settings

    @property
    def raises(self) -> bool:
        """Whether ``on_leak="raise"`` is among the actions."""
        return "raise" in self.settings.on_leak

    def uninstall(self) -> None:
        """Put everything back exactly as it was. What is folded is told, then the summary. Idempotent."""
        self._keeper.remove(self)

    def configure(self, **settings: object) -> None:
        """Apply settings at run time, on top of those in force. Raises SettingsError, and then changes nothing.

        ``enabled=False`` switches the guard off as `uninstall()` does, and ``enabled=True`` on again, without a
        restart: what was acquired in between is not known.
        """
        self._keeper.apply(self, settings)

    def check(self) -> list[Leak]:
        """Collect garbage, judge everything now, report; returns all that this guard found since the last check.

        With ``on_leak="raise"`` raises ConnectionLeakError instead where there is anything but advice.
        """
        leaks = self._keeper.check(self)
        self.raise_for(leaks)
        return leaks

    def holds(self) -> list[Hold]:
        """What is held right now of what this guard watches, oldest first."""
        keeper = self._keeper
        now = keeper.tracker.clock.monotonic()
        return [
            keeper.snapshots.hold(record, state_of(record), now)
            for record in keeper.tracker.holds()
            if record.pool.watch is self.watch
        ]

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.uninstall()

    # ------------------------------------------------------------------ used by the runtime

    def make_reporters(self) -> None:
        """The reporters that the settings ask for; each is imported only now."""
        exporters = self._exporters()
        self.close_reporters()
        for action in (*self.settings.on_leak, *exporters):
            match action:
                case "log":
                    from leakguard.reporters.log import LogReporter

                    self._report_to(LogReporter().report)
                case "raise":
                    pass
                case _:
                    self._report_to(getattr(action, "report", action))  # type: ignore[arg-type]
                    self._attach(action)
        for path in dict.fromkeys(settings.report_path(os.getpid()) for settings in (self.settings, *self._kept)):
            if path is None:
                continue
            from leakguard.reporters.jsonl import JsonlReporter

            jsonl = JsonlReporter(path)
            self._report_to(jsonl.report)
            self._closers.append(jsonl.close)

    def _report_to(self, report: Callable[[Event], object]) -> None:
        self._outlets.append(self._keeper.outlet(report))

    def _exporters(self) -> list[Reporter]:
        """Those that the settings name, unless one of the kind is among the reporters anyway."""
        names = dict.fromkeys(name for settings in (self.settings, *self._kept) for name in settings.export)
        if not names or not self.settings.enabled:
            return []
        from leakguard.reporters import exporter

        given = {type(action) for action in self.settings.on_leak}
        return [found for name in names if type(found := exporter(name)) not in given]

    def _attach(self, reporter: object) -> None:
        """A reporter that exports metrics asks for what it needs."""
        attach = getattr(reporter, "attach", None)
        if attach is None or not self.settings.enabled:
            return
        try:
            attach(self._registry)
            self._closers.append(reporter.close)  # type: ignore[attr-defined]
        except Exception as error:
            self._keeper.internal_error("exporter.attach", error)

    def keep_report(self) -> None:
        """Go on writing the present report file, also when the application asks for another one."""
        self._kept = (self.settings,)

    def close_reporters(self) -> None:
        """Let go of files, and end the exporters."""
        self._dropped_before = self.dropped_events
        closers, self._closers, self._outlets = self._closers, [], []
        for close in closers:
            close()

    def after_fork(self) -> None:
        """In a forked child: a new process, with counts and a report file of its own."""
        self.watch.reset()
        self._tally.clear()
        self._registry.forget()
        self._leaks, self._refusals = Ledger(), Ledger()
        self._dropped_before = 0
        for outlet in self._outlets:
            outlet.forget()
        self._unfetched.clear()
        self.counts, self.certain, self.found = {}, 0, {}
        if self.settings.report is not None and "%p" in str(self.settings.report):
            self.make_reporters()

    def enter(self, finding: Finding) -> tuple[Leak | None, bool]:
        """Resolve and count a finding. Returns the leak, None if it is ignored, and whether it is to be told now."""
        leak = self._likeness(finding) or self._leak_of(finding)
        site = leak.site
        ignored = any(
            pattern.matches(
                file=site.file if site is not None else None,
                function=site.function if site is not None else None,
                pool=leak.pool.name if leak.pool is not None else None,
                fingerprint=leak.fingerprint,
            )
            for pattern in self.settings.ignore
        )
        if ignored:
            return None, False
        self.counts[leak.kind] = self.counts.get(leak.kind, 0) + 1
        self.certain += leak.certain
        self._tally.add(leak, finding.pool.name)
        bug = leak.kind, leak.fingerprint
        leak, tell = self._leaks.enter(bug, leak, finding.at)
        if bug in self.found or len(self.found) < BUGS_LIMIT:
            self.found[bug] = leak_count(leak)
        self._unfetched.append(leak)
        if len(self._unfetched) > 2 * UNFETCHED_LIMIT:  # not each time: to take from a list's front moves all of it
            del self._unfetched[:-UNFETCHED_LIMIT]
        if self.raises and leak.kind != "nested_acquire":
            self.watch.pending.append(leak)
            if len(self.watch.pending) > 2 * UNFETCHED_LIMIT:
                del self.watch.pending[:-UNFETCHED_LIMIT]
        return leak, tell

    def _likeness(self, finding: Finding) -> Leak | None:
        """In a flood: the previous leak of the same bug, which stands for this one; None if it is to be looked at.

        To resolve a leak takes ten times longer than to count it, and nobody reads the thousandth of one line.
        """
        if finding.hold is None or len(self._unfetched) < UNFETCHED_LIMIT:
            return None
        return self._leaks.latest((finding.kind, self._keeper.snapshots.fingerprint(finding.hold)))

    def enter_refusal(self, event: Exhausted, now: float) -> Exhausted | None:
        """Count an exhaustion; None if it is folded into a later event."""
        counted, tell = self._refusals.enter((event.pool, event.cause), event, now)
        return counted if tell else None

    def folded(self, now: float, *, everything: bool = False) -> list[Event]:
        """The folded events that are due."""
        return [*self._leaks.due(now, everything=everything), *self._refusals.due(now, everything=everything)]

    def fetch(self) -> list[Leak]:
        """All that was found since the last fetch; what is returned here is no longer raised elsewhere."""
        found, self._unfetched = self._unfetched[-UNFETCHED_LIMIT:], []
        self.watch.pending.clear()
        return found

    def told(self, leaks: Sequence[Leak]) -> None:
        """A boundary tells these leaks itself: `check()` and the next acquire need not."""
        self._unfetched = [leak for leak in self._unfetched if all(leak is not other for other in leaks)]
        self.watch.pending[:] = [one for one in self.watch.pending if all(one is not other for other in leaks)]

    def raise_for(self, leaks: Sequence[Leak]) -> None:
        """With ``on_leak="raise"``, raise ConnectionLeakError for what is more than advice."""
        serious = [leak for leak in leaks if leak.kind != "nested_acquire"]
        if self.raises and serious:
            raise leak_error(serious)

    @property
    def dropped_events(self) -> int:
        """How many events some reporter was not told for want of room in its queue."""
        return self._dropped_before + sum(outlet.dropped for outlet in self._outlets)

    def told_by(self) -> list[Outlet]:
        """The ways to everybody that this guard tells."""
        return [*self._outlets, *self._keeper.companions]

    def deliver(self, event: Event) -> None:
        """Have an event wait for every reporter. A leak that finds no room is told later, with its folded count."""
        told = [outlet.put(event) for outlet in self.told_by()]
        if isinstance(event, Leak) and not all(told):
            self._leaks.put_back((event.kind, event.fingerprint))

    def recovered(self, returned: Returned) -> list[Recovered]:
        """The events of a suspected hold that was released after all, one for each suspicion."""
        record, tracker = returned.hold, self._keeper.tracker
        hold = self._keeper.snapshots.hold(record, "closed" if record.pool.direct else "idle", returned.at)
        name = self._keeper.snapshots.fingerprint(record)
        return [
            Recovered(kind=kind, time=tracker.clock.now(), fingerprint=name, hold=hold, held_for=hold.held_for)
            for kind in record.suspected
        ]

    def say_last(self) -> None:
        """The process ends: the exporters are told so, after the summary."""
        self._registry.say_last()

    def summary(self) -> Summary:
        """The exact counts so far."""
        watch, tracker = self.watch, self._keeper.tracker
        acquired = count_of(watch.acquired) - count_of(watch.forgotten)
        held = sum(1 for record in tracker.records() if record.watch is watch for _ in record.holds())
        return Summary(
            time=tracker.clock.now(),
            pid=os.getpid(),
            process=redact.process_title(),
            host=os.uname().nodename,
            acquired=acquired,
            released=acquired - held - watch.collected,
            held=held,
            leaked=watch.collected,
            leaks={str(kind): count for kind, count in self.counts.items()},
            internal_errors=self._keeper.internal_errors,
            dropped_events=self.dropped_events,
        )

    def _leak_of(self, finding: Finding) -> Leak:
        snapshots, tracker = self._keeper.snapshots, self._keeper.tracker
        record, hold, now = finding.hold, None, Now(owner="unknown", stack=())
        if record is None:
            site = finding.pool.created.site() if finding.pool.created is not None else None
            name = snapshots.pool_fingerprint(finding.pool)
        else:
            hold = snapshots.hold(record, finding.state or state_of(record), finding.at)
            site, name, now = hold.site, snapshots.fingerprint(record), snapshots.now(record.owner)
        return Leak(
            kind=finding.kind,
            certain=finding.certain,
            healed=finding.healed,
            time=tracker.clock.now(),
            fingerprint=name,
            count=1,
            boundary=finding.boundary,
            site=site,
            pool=snapshots.pool(finding.pool),
            reason=finding.reason if site is not None else f"{finding.reason} {_NO_SITE}",
            advice=finding.advice,
            hold=hold,
            now=now,
        )


_NO_SITE: Final = (
    "No application frame was on the stack: a task or thread was started on the library's own function, "
    "the object is older than leakguard, or stacks are off."
)


def leak_count(leak: Leak) -> LeakCount:
    """What is remembered of a bug."""
    return LeakCount(
        kind=leak.kind,
        certain=leak.certain,
        fingerprint=leak.fingerprint,
        site=leak.site,
        count=leak.count,
        time=leak.time,
    )


def leak_error(leaks: Sequence[Leak]) -> ConnectionLeakError:
    """The exception for these leaks; its text is rendered when it is read."""

    def render(leaks: Sequence[Leak]) -> str:
        from leakguard.prose.events import render_leaks

        return render_leaks(leaks)

    return ConnectionLeakError(leaks, render)
