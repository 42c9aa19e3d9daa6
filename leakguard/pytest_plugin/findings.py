"""What was found, in the form in which it travels: on pytest's reports, and out of xdist's workers, as plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from leakguard.model import Event, Leak, Snapshot
from leakguard.reporters.jsonl import decode, encode

Status: TypeAlias = Literal["leaked", "warning", "allowed", "known"]

REPORT_ATTRIBUTE = "leakguard_parcel"
"""Where a test report carries a parcel; xdist takes every attribute along that is plain JSON."""
WORKER_KEY = "leakguard"
"""Where a worker's last parcel is in its ``workeroutput``."""
USAGE_KEY = "leakguard_usage_error"
"""Where a worker puts what it could not accept, in its ``workeroutput``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """The leaks of one test or fixture, and what they mean: `why` says it where it is no failure.

    `counted` is whether pytest counts the failure itself, because the test's own report has become one. `kept` says
    what still refers to a connection, by the id of its hold (as text, for JSON). `key` names the test,
    or the life of the fixture, alike in all processes. `otherwise` is the status without a baseline, where one matters.
    """

    title: str
    test: str | None
    status: Status
    why: str
    counted: bool
    leaks: tuple[Leak, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    otherwise: Status | None = None


@dataclass(slots=True)
class Parcel:
    """What one process has to tell at one moment."""

    entries: list[Entry] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    partly: str = ""
    """Why this process did not run everything there is, if it knows that."""

    def __bool__(self) -> bool:
        return bool(self.entries or self.events or self.troubles)


def pack(parcel: Parcel) -> dict[str, Any]:
    """The parcel as plain JSON."""
    return {
        "entries": [
            {
                "title": entry.title,
                "test": entry.test,
                "status": entry.status,
                "why": entry.why,
                "counted": entry.counted,
                "leaks": _lines(entry.leaks),
                "kept": dict(entry.kept),
                "key": entry.key,
                "otherwise": entry.otherwise,
            }
            for entry in parcel.entries
        ],
        "events": _lines(parcel.events),
        "troubles": list(parcel.troubles),
        "partly": parcel.partly,
    }


def unpack(packed: Mapping[str, Any]) -> Parcel:
    """The parcel again."""
    entries = []
    for entry in packed["entries"]:
        leaks = tuple(event for event in map(_event, entry["leaks"]) if isinstance(event, Leak))
        entries.append(Entry(**{**entry, "leaks": leaks}))
    return Parcel(entries, [_event(line) for line in packed["events"]], list(packed["troubles"]), packed["partly"])


def _lines(events: Iterable[Event]) -> list[str]:
    return [encode(event).decode("utf-8") for event in events]


def _event(line: str) -> Event:
    event = decode(line.encode("utf-8"))[0]
    assert not isinstance(event, Snapshot)
    return event
