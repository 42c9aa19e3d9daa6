"""How a test process is watched: which guard, with which settings, and how all of it is put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from leakguard.guard import Guard
from leakguard.model import Event, Exhausted, Recovered
from leakguard.pytest_plugin.inspection import Inspector
from leakguard.runtime import Runtime
from leakguard.settings import Settings

_BOUNDARIES_ONLY: Final[Mapping[str, object]] = {"threshold": None, "idle_in_transaction": None, "owner_grace": 1e9}


class Watching:
    """The guard of this test process: the run's own, or the one that was there (``leakguard run pytest``)."""

    def __init__(self, current: Runtime) -> None:
        self.runtime = current
        self.inspector = Inspector(current)
        self.events: list[Event] = []
        self._guard: Guard | None = None
        self._settings: Settings | None = None
        self._origin_of = current.snapshots.origin_of

    def begin(self) -> None:
        """Install. In a test only a boundary judges: no age, no owner's end, no thread of ours."""
        current = self.runtime
        if current.process_guard is not None:
            self._settings = current.process_guard.settings
            current.apply(current.process_guard, _BOUNDARIES_ONLY)
        if not current.guards:
            current.rest()
            self._guard = current.install({"on_leak": _say_nothing, **_BOUNDARIES_ONLY})
        if self._guard is not None and current.process_guard is self._guard:
            current.pin(self._note)
        else:
            current.accompany(self._note)
        current.snapshots.origin_of = self.inspector.origin_of
        current.rounds.collectors.append(self.inspector.collect)

    def end(self) -> None:
        """Put everything back."""
        current = self.runtime
        if self.inspector.collect in current.rounds.collectors:
            current.rounds.collectors.remove(self.inspector.collect)
        current.snapshots.origin_of = self._origin_of
        current.part_from(self._note)
        if self._settings is not None and current.process_guard is not None:
            current.process_guard.watch.settings = self._settings
        if self._guard is not None:
            current.unpin()
            self._guard.uninstall()
            current.rise()

    def _note(self, event: Event) -> None:
        if isinstance(event, (Exhausted, Recovered)):
            self.events.append(event)

    def last_words(self) -> list[Event]:
        """The summary of this process."""
        return [self._guard.summary()] if self._guard is not None and self._guard.settings.enabled else []

    def core_errors(self) -> str | None:
        """What is to be said of errors inside leakguard's core, which logs each of them where it happens."""
        count = self.runtime.internal_errors
        return f"{count} in leakguard's core: see the captured log messages of logger leakguard" if count else None

    def take_events(self) -> list[Event]:
        """The other events since the last time."""
        taken = self.events[:]
        del self.events[: len(taken)]
        return taken


def _say_nothing(event: Event) -> None:
    """What is found goes into the run's report, not into the log."""
