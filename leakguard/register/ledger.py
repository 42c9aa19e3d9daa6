"""Exact counts of what was found, and the folding of a flood: a bug is told at once, then every ten seconds at most."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from leakguard.model import Exhausted, Leak

REPEAT_AFTER: Final = 10.0
"""Seconds between two events of one bug."""
BUGS_LIMIT: Final = 10_000
"""The most bugs whose counts are kept apart; an event of any other is told at once, with a count of 1."""

Counted = TypeVar("Counted", Leak, Exhausted)


@dataclass(slots=True)
class _Entry(Generic[Counted]):
    count: int
    told_at: float
    latest: Counted
    pending: bool = False


class Ledger(Generic[Counted]):
    """The events of one guard by bug. Not thread-safe: the caller holds the runtime's lock."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry[Counted]] = {}

    def enter(self, bug: Hashable, event: Counted, now: float) -> tuple[Counted, bool]:
        """Count an event. Returns it with its `count`, and whether it is to be told now rather than folded."""
        entry = self._entries.get(bug)
        if entry is None:
            if len(self._entries) < BUGS_LIMIT:
                self._entries[bug] = _Entry(count=1, told_at=now, latest=event)
            return event, True
        entry.count += 1
        entry.latest = event = replace(event, count=entry.count)
        entry.pending = now - entry.told_at < REPEAT_AFTER
        if not entry.pending:
            entry.told_at = now
        return event, not entry.pending

    def latest(self, bug: Hashable) -> Counted | None:
        """The latest event of a bug, if there was one."""
        entry = self._entries.get(bug)
        return None if entry is None else entry.latest

    def put_back(self, bug: Hashable) -> None:
        """An event could not be told: it is folded into the next one of its bug. Safe without the runtime's lock."""
        entry = self._entries.get(bug)
        if entry is not None:
            entry.pending = True

    def due(self, now: float, *, everything: bool = False) -> list[Counted]:
        """The folded events whose ten seconds are over, at the end all of them: the latest of each, with its count."""
        found: list[Counted] = []
        for entry in self._entries.values():
            if entry.pending and (everything or now - entry.told_at >= REPEAT_AFTER):
                found.append(entry.latest)
                entry.told_at, entry.pending = now, False
        return found
