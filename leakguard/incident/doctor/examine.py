"""The whole examination, in the order that keeps the pieces consistent.

The sockets of this host are read before and after the server is asked, and the processes answer last: so what the
server had and they have not was gone before, and what they have and the server had not is looked up once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from leakguard.errors import LeakguardError
from leakguard.incident.doctor import bouncer, claims, doors, server
from leakguard.incident.doctor import processes as process_table
from leakguard.incident.doctor.bouncer import ConsoleError
from leakguard.incident.doctor.claims import Reported
from leakguard.incident.doctor.diagnosis import diagnose
from leakguard.incident.doctor.doors import Entry
from leakguard.incident.doctor.dsn import Target
from leakguard.incident.doctor.join import Views, join
from leakguard.incident.doctor.model import BouncerFacts, Diagnosis, Joined, ServerFacts
from leakguard.incident.doctor.processes import Table
from leakguard.incident.doctor.wire import SlowError, said
from leakguard.model import Snapshot

_SLOT_REFUSALS: Final = ("full", "reserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What there is to ask besides the server: live processes, what event files told, PgBouncer's console.

    `processes` asks the processes of this host; with their answers come sentences about those that gave none.
    """

    processes: Callable[[], tuple[Sequence[Snapshot], Sequence[str]]]
    reported: Reported
    console: Target | None = None


class BrokenOffError(LeakguardError):
    """The server let us in, and then did not answer, or not as it should; the text is one line."""


@contextmanager
def examination(target: Target, sources: Sources) -> Iterator[tuple[Entry, Diagnosis]]:
    """The diagnosis, while the connection is open. Raises `ShutOutError`, `DsnError` and `BrokenOffError`."""
    import psycopg

    before = process_table.read()
    entry = doors.enter(target)
    try:
        with closing(entry.connection):
            yield entry, _examined(entry, target, sources, before)
    except (psycopg.Error, SlowError) as error:
        raise BrokenOffError(said(error, target)) from None


def _examined(entry: Entry, target: Target, sources: Sources, before: Table) -> Diagnosis:
    facts = _facts(entry)
    pooler, notes = _pooler(target, sources.console, facts, entry)
    after = process_table.read()
    snapshots, unanswered = sources.processes()
    answered = [claims.process_of(snapshot) for snapshot in snapshots]
    all_claims = [*claims.of_snapshots(snapshots), *sources.reported.claims(answered)]
    views = Views(server=facts, snapshots=snapshots, claims=all_claims, bouncer=pooler, before=before, after=after)
    return diagnose(
        source=target.source,
        attempts=entry.attempts,
        server=facts,
        bouncer=pooler,
        joined=_confirmed(join(views), entry),
        snapshots=snapshots,
        notes=[*notes, *unanswered],
    )


def _facts(entry: Entry) -> ServerFacts:
    refusals = [attempt.refusal.kind for attempt in entry.attempts if attempt.refusal is not None]
    refused = next((kind for kind in refusals if kind in _SLOT_REFUSALS), None)
    facts = server.collect(entry.connection, entry.endpoint, refused=refused)
    if facts.capacity.hidden and not doors.still_refused(entry):
        # It was full for a moment only: what is missing from the sum has ended since.
        facts = replace(facts, capacity=replace(facts.capacity, hidden=0))
    return facts


def _pooler(
    target: Target, console: Target | None, facts: ServerFacts, entry: Entry
) -> tuple[BouncerFacts | None, list[str]]:
    """PgBouncer's own view: from the console that was named, or from the pooler that we came through."""
    if console is None:
        if not facts.through_pooler and entry.endpoint.port == entry.attempts[0].endpoint.port:
            return None, []
        console = bouncer.console_of(target)
    try:
        return bouncer.collect(console), []
    except ConsoleError as error:
        return None, [f"PgBouncer's console did not let us in: {error}"]


def _confirmed(joined: Joined, entry: Entry) -> Joined:
    """Without the phantoms that the server has after all: they were opened while we looked."""
    if not joined.phantoms:
        return joined
    alive = server.alive(entry.connection, [phantom.backend_pid for phantom in joined.phantoms])
    return replace(joined, phantoms=tuple(phantom for phantom in joined.phantoms if phantom.backend_pid not in alive))
