"""The answer as text for a person in a hurry: what is short, the cause and its line first, then who has every slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from leakguard.incident.doctor.causes import arithmetic
from leakguard.incident.doctor.dsn import DATABASE_URL, ENVIRONMENT
from leakguard.incident.doctor.model import (
    Attempt,
    Cause,
    Diagnosis,
    Endpoint,
    Joined,
    Refusal,
    RefusalKind,
    ServerFacts,
    Shortage,
    Slot,
)
from leakguard.incident.doctor.terminate import Ending
from leakguard.incident.doctor.words import names, pid_words, process_words, site_words, states, stranger
from leakguard.judging.wording import duration
from leakguard.model import HoldNow, Snapshot
from leakguard.prose import layout, phrases
from leakguard.prose.holders import grouped
from leakguard.prose.layout import WIDTH
from leakguard.prose.phrases import plural, shown
from leakguard.redact import visible

CAUSES_SHOWN: Final = 5
ROWS_SHOWN: Final = 30
NOBODY: Final = "no guarded process on this host has a connection"
CONSOLE: Final = "Name a role of PgBouncer's admin_users or stats_users: its console says who waits for what."
RESCUE: Final = (
    "Come in as a superuser, or as a role with REPLICATION, pg_monitor and pg_signal_backend: it takes no slot. "
    "Or end one backend on the server's host: kill -TERM PID, never -9."
)

_REFUSALS: Final[dict[RefusalKind, str]] = {
    "full": "the server is full: every slot of max_connections is taken, the reserved ones too",
    "reserved": "the server is full: the last slots are reserved for other roles",
    "role": "the role is at its CONNECTION LIMIT",
    "database": "the database is at its CONNECTION LIMIT",
    "pooler_full": "the pooler takes no more clients (max_client_conn)",
    "pooler_busy": "the pooler lets us in, but has no server connection to spare",
    "starting": "the server is starting, stopping or recovering; try again",
    "password": "wrong password, or no such role",
    "no_password": "the server wants a password: put it into the DSN, PGPASSWORD or ~/.pgpass",
    "not_admitted": "pg_hba.conf does not admit this role, database and host",
    "no_database": "there is no such database",
    "no_role": "there is no such role, or it may not log in",
    "tls_required": "the server demands TLS: add sslmode=require",
    "tls": "TLS cannot be agreed on",
    "unreachable": "nothing answers there; is it running, and is the address right?",
    "no_answer": "it does not answer",
    "not_postgres": "what answers there is not PostgreSQL",
    "not_allowed": "this role may not come in by that door",
    "unknown": "refused",
}


# ----------------------------------------------------------------------------------------------------- shut out


def refusal_line(endpoint: Endpoint, refusal: Refusal) -> str:
    """The one line for a server that let us in by no door."""
    state = f" ({refusal.sqlstate})" if refusal.sqlstate else ""
    reason = f"{_REFUSALS[refusal.kind]}{state}; it said: {shown(refusal.message)}"
    return f"cannot connect to {endpoint_words(endpoint)}: {reason}"


def endpoint_words(endpoint: Endpoint) -> str:
    """``app@db.example:5432/shop``."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return shown(f"{endpoint.user}@{host}:{endpoint.port}/{endpoint.database}")


def shut_out_text(attempts: Sequence[Attempt], snapshots: Iterable[Snapshot]) -> str:
    """Who holds connections on this host, and how to get in: what can be said without the server."""
    port = attempts[0].endpoint.port
    here = [
        replace(one, holds=tuple(hold for hold in one.holds if _port_of(hold) in (None, port))) for one in snapshots
    ]
    groups = grouped(here)
    lines = [*_doors(attempts), f"held by the guarded processes of this host, at port {port}:" if groups else NOBODY]
    for group in groups:
        members = group.members
        lines.append(
            f"{len(members):>6}  {group.verdict}  {site_words(group.oldest.hold.site)}  {shown(group.fingerprint)}"
        )
        pids = dict.fromkeys(str(snapshot.pid) for snapshot, _ in members)
        backends = [str(hold.hold.server.backend_pid) for _, hold in members if hold.hold.server is not None]
        age = f"for up to {duration(group.oldest.hold.held_for)}"
        lines += _packed("        ", [age, f"pid {' '.join([*pids][:8])}", f"backend {' '.join(backends[:8])}"])
    pooled = any(one.refusal is not None and one.refusal.kind in ("pooler_full", "pooler_busy") for one in attempts)
    return "\n".join([*lines, *layout.sentences("next", f"{CONSOLE} {RESCUE}" if pooled else RESCUE, WIDTH)])


def _port_of(hold: HoldNow) -> int | None:
    return hold.hold.server.port if hold.hold.server is not None else None


# ----------------------------------------------------------------------------------------------------- the answer


def as_text(diagnosis: Diagnosis, *, color: bool = False) -> str:
    """The whole answer, 80 columns wide where paths and code allow."""
    blocks = ["\n".join(_head(diagnosis, color))]
    for number, cause in enumerate(diagnosis.causes[:CAUSES_SHOWN], start=1):
        blocks.append("\n".join(_cause(number, cause, color)))
    beyond = diagnosis.causes[CAUSES_SHOWN:]
    if beyond:
        blocks.append(
            "\n".join(f"also: {cause.title}  {phrases.place(cause.site) if cause.site else ''}" for cause in beyond)
        )
    blocks.append("\n".join(_slots(diagnosis.server, diagnosis.joined)))
    loose = [*_loose(diagnosis)]
    if loose:
        blocks.append("\n".join(loose))
    if diagnosis.notes:
        blocks.append("\n".join(line for note in diagnosis.notes for line in layout.sentences("note", note, WIDTH)))
    return "\n\n".join(blocks)


def _head(diagnosis: Diagnosis, color: bool) -> Iterator[str]:
    server = diagnosis.server
    where = endpoint_words(diagnosis.endpoint)
    source = f", from {diagnosis.source}" if diagnosis.source in (DATABASE_URL, ENVIRONMENT) else ""
    yield f"{where} (PostgreSQL {shown(server.version)}){source}"
    for shortage in diagnosis.shortages:
        yield _shortage(shortage, color)
    if not diagnosis.shortages:
        capacity = server.capacity
        yield f"room: {capacity.used + capacity.hidden} of {capacity.ordinary} connection slots taken"
    yield from _doors(diagnosis.attempts)


def _shortage(shortage: Shortage, color: bool) -> str:
    word = phrases.verdict("EXHAUSTED" if shortage.full else "SUSPECT", color)
    word = word if shortage.full else word.replace("SUSPECT", "NEARLY EXHAUSTED")
    return f"{word} {shortage.what}: {shortage.used} of {shortage.limit} taken"


def _doors(attempts: Sequence[Attempt]) -> Iterator[str]:
    """Which doors were tried, and which one worked."""
    for attempt in attempts:
        if attempt.refusal is not None:
            yield f"  {attempt.door} door: {_REFUSALS[attempt.refusal.kind]}"
        else:
            yield f"  {attempt.door} door: open" + (
                f", at {endpoint_words(attempt.endpoint)}" if attempt.door != "ordinary" else ""
            )


def _cause(number: int, cause: Cause, color: bool) -> Iterator[str]:
    if cause.kind in ("leak", "transaction", "zombie"):
        word = "LEAK" if cause.certain and cause.kind == "leak" else "SUSPECT"
    else:
        word = "ADVICE"
    parts = [cause.title, *([phrases.place(cause.site)] if cause.site is not None else [])]
    parts += [shown(cause.fingerprint)] if cause.fingerprint else []
    yield f"{number}. {layout.headline(word, *parts, color=color)}"
    if cause.hold is not None:
        how = f"by {shown(cause.hold.library)} {shown(cause.hold.operation)}".rstrip()
        yield from layout.source(cause.site, how, cause.hold.operation)
        yield from layout.callers(cause.hold.stack, cause.site)
    elif cause.site is not None:
        yield from layout.source(cause.site, "acquired there")
    before = ""
    for evidence in cause.evidence:
        lines = layout.sentences(evidence.label, evidence.text, WIDTH)
        if evidence.label == before:  # one label for a column of them
            lines[:1] = [lines[0].replace(f"{before}:", " " * (len(before) + 1), 1)]
        yield from lines
        before = evidence.label
    if cause.fix:
        sentence, _, code = cause.fix.partition("\n")
        yield from layout.sentences("fix", sentence, WIDTH)
        yield from layout.instead(code) if code else ()
    yield from layout.listed("next", cause.next)


# --------------------------------------------------------------------------------------------------- every slot


def _slots(server: ServerFacts, joined: Joined) -> Iterator[str]:
    """A line for each group of slots: how many, who, where, in which state. Together they are all there are."""
    capacity = server.capacity
    reserve = capacity.superuser_reserved + capacity.reserved
    yield (
        f"slots: {capacity.used + capacity.hidden} of {capacity.max_connections} (max_connections), "
        f"{reserve} of them reserved; walsenders apart: {capacity.walsenders} of {capacity.max_wal_senders}"
    )
    groups: dict[tuple[str, str], list[Slot]] = {}
    for slot in joined.slots:
        if slot.keeper != "doctor":
            groups.setdefault((_verdict(slot), _holder(slot)), []).append(slot)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (verdict, holder), members in ordered[:ROWS_SHOWN]:
        yield from _packed(f"{len(members):>6}  {verdict}  ", [holder, *_processes(members)])
        logins = [*dict.fromkeys(_login(slot) for slot in members)]
        yield from _packed("        ", [*logins[:3], states(server, members)])
    if len(ordered) > ROWS_SHOWN:
        rest = sum(len(members) for _, members in ordered[ROWS_SHOWN:])
        yield f"  {rest:>4}  in {len(ordered) - ROWS_SHOWN} more groups (see --format json)"
    if capacity.hidden:
        yield f"  {capacity.hidden:>4}  still logging in, which this version of PostgreSQL does not show"
    for limit, kind in [*((one, "role") for one in capacity.roles), *((one, "database") for one in capacity.databases)]:
        yield f'  limit of {kind} "{shown(limit.name)}": {limit.used} of {limit.limit}'


def _verdict(slot: Slot) -> str:
    if slot.hold is not None:
        if slot.proven:
            return "leak"
        if slot.allowed:
            return "allowed"
        return "suspect" if slot.suspected else "in use"
    if slot.process is not None and slot.process.guarded and slot.keeper == "process":
        return "unseen"
    return {"pool": "in pool", "zombie": "zombie", "pooler": "pooler", "hidden": "hidden"}.get(slot.keeper, "unguarded")


def _holder(slot: Slot) -> str:
    """The line, the pool, or whatever else is known."""
    if slot.hold is not None:
        return site_words(slot.site)
    return f'"{shown(slot.pool or "")}"' if slot.keeper == "pool" else stranger(slot)


def _processes(members: Iterable[Slot]) -> list[str]:
    """Whose they are, where the first words do not say so."""
    known = [slot for slot in members if slot.hold is not None or slot.keeper == "pool"]
    through = " through PgBouncer"
    counts = Counter(process_words(slot.process) + (through if slot.through is not None else "") for slot in known)
    return names(counts)


def _login(slot: Slot) -> str:
    """``app@shop "web"``: role, database and application."""
    backend = slot.backend
    name = f' "{visible(backend.application, 40)}"' if backend.application else ""
    return f"{shown(backend.user or '?')}@{shown(backend.database or '?')}{name}"


def _packed(head: str, pieces: Sequence[str]) -> Iterator[str]:
    """The pieces behind a head, each on a line of its own where they do not fit beside each other."""
    line = head + pieces[0]
    for piece in pieces[1:]:
        if len(line) + 2 + len(piece) <= WIDTH:
            line += f"  {piece}"
        else:
            yield line
            line = " " * len(head) + piece
    yield line


def _loose(diagnosis: Diagnosis) -> Iterator[str]:
    """What has no slot, and yet belongs here."""
    joined, server = diagnosis.joined, diagnosis.server
    phantoms: dict[tuple[str, str], list[int]] = {}
    for phantom in joined.phantoms:
        what = f"held since {site_words(phantom.hold.hold.site)}" if phantom.hold is not None else "idle in its pool"
        phantoms.setdefault((process_words(phantom.process), what), []).append(phantom.backend_pid)
    for (process, what), pids in phantoms.items():
        yield f"phantom: {plural(len(pids), 'connection')} of {process}, {what},"
        yield from layout.sentences("gone", f"the server has no such session any more: {pid_words(pids)}", WIDTH)
    bouncer = diagnosis.bouncer
    if bouncer is not None:
        yield f"PgBouncer {shown(bouncer.version)} at {endpoint_words(bouncer.endpoint)}:"
        for pool in bouncer.pools:
            size = f" of {pool.size}" if pool.size is not None else ""
            wait = f", {pool.waiting} waiting for up to {duration(pool.longest_wait)}" if pool.waiting else ""
            name = f"{shown(pool.database)}/{shown(pool.user)} ({shown(pool.mode or 'mode unknown')})"
            yield f"  {name}: {pool.active + pool.idle}{size} server connections, {pool.active} in use,"
            yield f"      {plural(pool.clients, 'client')}{wait}"
    if not any(cause.kind == "pooling" for cause in diagnosis.causes):
        sums = [*arithmetic(server, joined, bouncer.max_clients if bouncer is not None else None)]
        yield from layout.listed("pools", sums)


# -------------------------------------------------------------------------------------------------- terminating


def endings_text(endings: Iterable[Ending], unmet: Iterable[str], *, really: bool) -> str:
    """What was ended, or would be, each with the line that it was acquired at."""
    ended = [*endings]
    if not ended:
        head = "nothing to end: no live hold answers to the choice"
    elif really:
        head = f"ended {sum(ending.outcome == 'ended' for ending in ended)} of {plural(len(ended), 'backend')}:"
    else:
        head = f"would end {plural(len(ended), 'backend')} (nothing was done; --yes does it):"
    lines = [head]
    for ending in ended:
        slot = ending.slot
        assert slot.hold is not None
        detail = f": {shown(ending.detail)}" if ending.detail else ""
        lines.append(
            f"  {ending.outcome}{detail}: backend {slot.backend.pid} ({shown(slot.backend.state or '')}), "
            f"{process_words(slot.process)},"
        )
        lines.append(f"      held for {duration(slot.hold.hold.held_for)}, acquired at {site_words(slot.site)}")
    lines += [f"  not ended: {shown(line)}" for line in unmet]
    return "\n".join(lines)
