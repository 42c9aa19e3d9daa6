"""Ends the backends of chosen holds, and nobody else's.

Only a backend whose two ends were matched to a hold of a live process is ever ended. The statement that ends it
checks again that it is the same session (process id and start) in the same state since the same moment: if the hold
was released meanwhile, its connection belongs to somebody else now, and has moved on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from leakguard.incident.doctor.model import Joined, Slot
from leakguard.incident.doctor.server import transaction
from leakguard.incident.doctor.wire import SlowError
from leakguard.redact import message

if TYPE_CHECKING:
    from leakguard.incident.doctor.wire import Connection

Outcome = Literal["would end", "ended", "has moved on", "not allowed", "failed"]

_END: str = """
    SELECT pg_terminate_backend(pid, 5000) AS ended FROM pg_stat_activity
     WHERE pid = %s AND backend_start = %s::timestamptz AND state_change = %s::timestamptz AND pid <> pg_backend_pid()
       AND backend_type = 'client backend'
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which holds are meant. Empty: those that are proven leaks."""

    fingerprints: frozenset[str] = frozenset()
    backends: frozenset[int] = frozenset()
    processes: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.fingerprints or self.backends or self.processes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What became of one chosen slot."""

    slot: Slot
    outcome: Outcome
    detail: str = ""


def chosen(joined: Joined, choice: Choice) -> tuple[Slot, ...]:
    """The slots that may be ended. What is idle in a pool, has no guarded owner, is reported by a file, or was matched
    by its process id alone is none of them, whatever was chosen; nor is what somebody has allowed, unless by number."""
    return tuple(slot for slot in joined.slots if may_end(slot) and _is_chosen(slot, choice))


def may_end(slot: Slot) -> bool:
    """Whether there is a live hold that this backend belongs to for certain."""
    backend = slot.backend
    known = backend.started_at is not None and backend.state_since is not None
    return slot.sure and slot.live and slot.hold is not None and known


def _is_chosen(slot: Slot, choice: Choice) -> bool:
    assert slot.process is not None
    if not choice:
        return slot.proven and not slot.allowed
    if choice.backends and slot.backend.pid in choice.backends:
        return True
    if slot.allowed:
        return False
    by_name = bool(choice.fingerprints or choice.processes)
    return (
        by_name
        and (not choice.fingerprints or slot.fingerprint in choice.fingerprints)
        and (not choice.processes or slot.process.pid in choice.processes)
    )


def unmet(joined: Joined, choice: Choice) -> list[str]:
    """What was asked for and is not among the slots that may be ended, each with the reason."""
    found = chosen(joined, choice)
    by_pid = {slot.backend.pid: slot for slot in joined.slots}
    backends = choice.backends - {slot.backend.pid for slot in found}
    fingerprints = choice.fingerprints - {slot.fingerprint for slot in found if slot.fingerprint is not None}
    processes = choice.processes - {slot.process.pid for slot in found if slot.process is not None}
    return [
        *(f"backend {pid}: {_why_not(by_pid.get(pid))}" for pid in sorted(backends)),
        *(f"fingerprint {name}: no live process holds a connection of that bug here" for name in sorted(fingerprints)),
        *(f"process {pid}: it holds no connection here that answers to the choice" for pid in sorted(processes)),
    ]


def _why_not(slot: Slot | None) -> str:
    if slot is None:
        return "there is none of this number"
    if slot.keeper == "doctor":
        return "that is the doctor itself"
    if slot.keeper == "pool":
        return "it idles in a pool; nobody holds it"
    if slot.hold is None:
        return "no guarded process holds it"
    if not slot.live:
        return "it is known from an event file only, which may be out of date"
    return "it was matched by its process id alone, which is not enough"


def end(connection: Connection, slots: Iterable[Slot], *, really: bool) -> Sequence[Ending]:
    """End them, one statement each; without `really`, only say which. Never raises what one of them brings about."""
    if not really:
        return [Ending(slot=slot, outcome="would end") for slot in slots]
    return [_end(connection, slot) for slot in slots]


def _end(connection: Connection, slot: Slot) -> Ending:
    import psycopg

    backend = slot.backend
    assert may_end(slot)
    assert backend.started_at is not None
    assert backend.state_since is not None
    moments = (backend.started_at.isoformat(), backend.state_since.isoformat())
    try:
        with transaction(connection):
            rows = connection.execute(_END, (backend.pid, *moments)).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        return Ending(slot=slot, outcome="not allowed", detail=message(str(error)))
    except (psycopg.Error, SlowError) as error:
        return Ending(slot=slot, outcome="failed", detail=message(str(error)))
    if not rows:
        return Ending(slot=slot, outcome="has moved on", detail="somebody has used it since, or it has ended")
    return (
        Ending(slot=slot, outcome="ended")
        if rows[0]["ended"]
        else Ending(slot=slot, outcome="failed", detail="it did not end within 5 s")
    )
