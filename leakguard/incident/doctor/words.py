"""How the doctor names processes, sessions and places. Every string that is not ours is made harmless here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

from leakguard.incident.doctor.model import Process, ServerFacts, Slot
from leakguard.judging.wording import duration
from leakguard.model import Site
from leakguard.prose import phrases
from leakguard.prose.phrases import place, shown

PIDS_SHOWN: Final = 8
_NAMES_SHOWN: Final = 5


def process_words(process: Process | None) -> str:
    """``pid 4242 (python app.py) on web1``, without the host where it is this one."""
    if process is None:
        return "an unknown process"
    return phrases.process_words(
        process.pid, process.command, "" if process.host == os.uname().nodename else process.host
    )


def processes(count: int) -> str:
    """``1 process``, ``2 processes``."""
    return f"{count} process{'' if count == 1 else 'es'}"


def site_words(site: Site | None) -> str:
    """``shop/orders.py:88 in export_orders``."""
    return f"{place(site)} in {shown(site.function)}" if site is not None else "a place outside the application"


def stranger(slot: Slot) -> str:
    """Who has a session that no hold explains, in the words that fit what is known."""
    backend = slot.backend
    name = f'application "{shown(backend.application)}"' if backend.application else "an application without a name"
    match slot.keeper:
        case "process" if slot.process is not None:
            unseen = ", which its guard has not seen" if slot.process.guarded else ""
            through = " through PgBouncer" if slot.through is not None else ""
            return f"{process_words(slot.process)}{through}{unseen}"
        case "pool" if slot.process is not None:
            return f"{process_words(slot.process)}, idle in its pool"
        case "hold" if slot.process is not None:
            return process_words(slot.process)
        case "pooler":
            return f"PgBouncer's pool {shown(slot.pool or '')}, no client at the moment"
        case "remote":
            client = slot.through.address if slot.through is not None else backend.client
            through = " through PgBouncer" if slot.through is not None else ""
            return f"{name} at {shown(client or 'an unknown address')}{through}"
        case "socket":
            return f"{name} at a Unix socket of the server's host"
        case "foreign":
            return f"a process of user {slot.user} on this host"
        case "hidden":
            return f"{name}, hidden from this role"
        case "zombie":
            return "nobody: the client's end is closed"
        case _:
            return name


def states(facts: ServerFacts, slots: Iterable[Slot]) -> str:
    """``idle in transaction x12 for up to 12m03s, active for 0.25 s``."""
    oldest: dict[str, datetime] = {}
    counts: Counter[str] = Counter()
    for slot in slots:
        state = slot.backend.state or "state hidden"
        counts[state] += 1
        if slot.backend.state_since is not None:
            oldest[state] = min(oldest.get(state, slot.backend.state_since), slot.backend.state_since)
    return ", ".join(
        _state(state, count, duration(age(facts, oldest[state])) if state in oldest else None)
        for state, count in counts.most_common()
    )


def _state(state: str, count: int, longest: str | None) -> str:
    times = f" x{count}" if count > 1 else ""
    up_to = " for up to" if count > 1 else " for"
    return f"{shown(state)}{times}" + (f"{up_to} {longest}" if longest is not None else "")


def age(facts: ServerFacts, since: datetime | None) -> float:
    """Seconds since a moment, by the server's clock; 0 where it is hidden."""
    return max((facts.now - since).total_seconds(), 0.0) if since is not None else 0.0


def names(counts: Mapping[str, int]) -> list[str]:
    """The most frequent names, each with its count where there are several, and how many others there are."""
    ordered: Sequence[tuple[str, int]] = Counter(counts).most_common()
    words = [f"{name} x{count}" if len(ordered) > 1 else name for name, count in ordered[:_NAMES_SHOWN]]
    beyond = len(ordered) - len(words)
    return [*words, f"and {beyond} others"] if beyond > 0 else words


def pid_words(pids: Iterable[int]) -> str:
    """``backend 991 992 and 12 more``."""
    found = list(pids)
    beyond = len(found) - PIDS_SHOWN
    return f"backend {' '.join(map(str, found[:PIDS_SHOWN]))}" + (f" and {beyond} more" if beyond > 0 else "")
