"""From what was collected and joined to the answer: what is short, why, and whether that is a problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from leakguard.incident.doctor.causes import causes_of
from leakguard.incident.doctor.model import (
    CAPACITY,
    Attempt,
    BouncerFacts,
    Diagnosis,
    Joined,
    Refusal,
    ServerFacts,
    Shortage,
)
from leakguard.judging.wording import duration
from leakguard.model import Snapshot
from leakguard.prose.phrases import plural, shown
from leakguard.version import __version__

POOLER: Final = "pgbouncer"
"""The name of PgBouncer's process."""
NEARLY: Final = 0.9
"""The share of a limit from which on it is called nearly used up."""


def diagnose(
    *,
    source: str,
    attempts: Sequence[Attempt],
    server: ServerFacts,
    bouncer: BouncerFacts | None,
    joined: Joined,
    snapshots: Sequence[Snapshot],
    notes: Iterable[str] = (),
) -> Diagnosis:
    """The answer. Pure."""
    refusals = [attempt.refusal for attempt in attempts if attempt.refusal is not None]
    shortages = tuple(_shortages(server, bouncer, refusals))
    causes = causes_of(server, joined, shortages, snapshots)
    return Diagnosis(
        source=source,
        endpoint=attempts[0].endpoint,
        attempts=tuple(attempts),
        server=server,
        bouncer=bouncer,
        joined=joined,
        shortages=shortages,
        causes=causes,
        problem=bool(shortages or causes or any(phantom.hold is not None for phantom in joined.phantoms)),
        notes=(*notes, *_notes(server, bouncer, joined, snapshots)),
    )


def _shortages(server: ServerFacts, bouncer: BouncerFacts | None, refusals: Sequence[Refusal]) -> Iterator[Shortage]:
    """What is used up or nearly so, the narrowest limit first."""
    capacity = server.capacity
    refused = {refusal.kind for refusal in refusals if refusal.kind in CAPACITY}
    for kind, limits in (("role", capacity.roles), ("database", capacity.databases)):
        for limit in limits:
            full = limit.used >= limit.limit
            # A limit of 0 bars a role on purpose, and one of 1 or 2 is meant for whoever has it, until it refuses.
            if limit.limit and (kind in refused or (limit.limit > 2 and limit.used >= NEARLY * limit.limit)):
                yield Shortage(
                    kind="role" if kind == "role" else "database",
                    what=f'connections of {kind} "{shown(limit.name)}"',
                    used=limit.used,
                    limit=limit.limit,
                    full=full,
                    role=limit.name if kind == "role" else None,
                    database=limit.name if kind == "database" else None,
                )
    for pool in bouncer.pools if bouncer is not None else ():
        if pool.waiting and pool.longest_wait >= 1.0:
            yield Shortage(
                kind="pool",
                what=f'server connections of PgBouncer\'s pool "{shown(pool.database)}/{shown(pool.user)}"',
                used=pool.active,
                limit=pool.size if pool.size is not None else pool.active + pool.idle,
                full=True,
                role=pool.user,
                database=pool.database,
            )
    if bouncer is not None and bouncer.max_clients is not None:
        clients = sum(pool.clients + pool.waiting for pool in bouncer.pools)
        full = "pooler_full" in refused
        if full or clients >= NEARLY * bouncer.max_clients:
            yield Shortage(
                kind="clients",
                what="client connections of PgBouncer (max_client_conn)",
                used=clients,
                limit=bouncer.max_clients,
                full=full,
            )
    used = capacity.used + capacity.hidden
    if refused & {"full", "reserved"} or used >= NEARLY * capacity.ordinary:
        yield Shortage(
            kind="server",
            what="connection slots of the server",
            used=used,
            limit=capacity.ordinary,
            full=used >= capacity.ordinary,
        )


def _notes(
    server: ServerFacts, bouncer: BouncerFacts | None, joined: Joined, snapshots: Sequence[Snapshot]
) -> Iterator[str]:
    """What could not be seen and why, then advice for the next time."""
    if server.degraded:
        yield (
            f'degraded: role "{shown(server.role)}" may not see the sessions of others; GRANT pg_monitor TO it. '
            "The counts are right all the same."
        )
    if server.through_pooler and bouncer is None:
        yield "a pooler stands in between: name its console with --bouncer to see who is behind it"
    poolers = {slot.process.pid for slot in joined.slots if slot.process is not None and slot.process.command == POOLER}
    if poolers and bouncer is None:
        pids = " ".join(map(str, sorted(poolers)))
        yield f"pid {pids} is a pooler: name its console with --bouncer to see who is behind it"
    if bouncer is not None and bouncer.missing:
        yield f"PgBouncer {shown(bouncer.version)} does not tell {', '.join(shown(name) for name in bouncer.missing)}"
    if not snapshots:
        yield "no guarded process on this host: the lines are unknown; start the application under `leakguard run`"
    for snapshot in snapshots:
        if snapshot.version != __version__:
            yield f"pid {snapshot.pid} runs leakguard {shown(snapshot.version)}, this is {__version__}"
        if snapshot.left_out:
            yield f"pid {snapshot.pid} holds {plural(snapshot.left_out, 'more connection')} than it could tell"
        for pool in snapshot.pools:
            if pool.lost and not any((use.name, use.site) == (pool.name, pool.created_at) for use in joined.pools):
                lost = plural(pool.lost, "slot")
                yield f'pid {snapshot.pid}: pool "{shown(pool.name)}", of whatever server, has lost {lost} for good'
    if joined.unmatched:
        yield f"{plural(joined.unmatched, 'hold')} of guarded processes on other servers, or not to be matched"
    yield from _timeouts(server)
    if not server.rescuers:
        yield (
            "no role could come in once every slot is taken: CREATE ROLE leakguard_rescue LOGIN REPLICATION; "
            "GRANT pg_monitor, pg_signal_backend TO leakguard_rescue; and admit it in pg_hba.conf"
        )


def _timeouts(server: ServerFacts) -> Iterator[str]:
    set_elsewhere = f" ({'; '.join(shown(words) for words in server.overridden)})" if server.overridden else ""
    if "idle_in_transaction_session_timeout" in server.unset:
        yield (
            f"idle_in_transaction_session_timeout is not set{set_elsewhere}: a forgotten transaction stays for ever. "
            "Set it; it is safe for pools."
        )
    if "idle_session_timeout" in server.unset:
        yield (
            "idle_session_timeout is not set. Leave it so for roles that pools use: it would end the idle connections "
            "of a pool behind its back."
        )
    seconds = float(server.settings.get("authentication_timeout") or 0)
    if seconds > 60:
        yield f"authentication_timeout is {duration(seconds)}: so long does a connection that never logs in take a slot"
