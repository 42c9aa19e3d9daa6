"""Why the slots are taken: the causes, ranked by how many slots each explains, with evidence and the next command.

Pure functions of what was joined. Too little pooling, load and a limit that is too low explain something only once a
limit is reached, or nearly; whoever can be blamed is a cause at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, assert_never

from leakguard.incident.doctor.blame import blamed
from leakguard.incident.doctor.model import Cause, CauseKind, Evidence, Joined, Process, ServerFacts, Shortage, Slot
from leakguard.incident.doctor.words import age, process_words, processes, site_words, states, stranger
from leakguard.model import Snapshot
from leakguard.prose.phrases import plural, shown

LONG: Final = 300.0
"""Seconds after which a transaction is called long, where connections are short."""
_KEEPERS_SHOWN: Final = 6
_WEIGHTS: Final[dict[CauseKind, int]] = {
    "leak": 3,
    "transaction": 3,
    "authentication": 2,
    "zombie": 2,
    "pooling": 1,
    "load": 1,
    "limit": 1,
}
"""A line that can be changed beats what nobody in particular has done, unless that explains much more."""


def causes_of(
    facts: ServerFacts, joined: Joined, shortages: Sequence[Shortage], snapshots: Iterable[Snapshot] = ()
) -> tuple[Cause, ...]:
    """All causes, the best explanation first."""
    found = blamed(facts, joined, snapshots)
    if shortages:
        explained = {pid for cause in found for pid in cause.pids}
        rest = [
            slot
            for slot in joined.slots
            if slot.keeper != "doctor" and slot.backend.pid not in explained and _concerned(slot, shortages)
        ]
        exhausted = [shortage for shortage in shortages if shortage.full]
        found += [*_pooling(facts, joined, rest), *_load(facts, rest), *_limit(facts, exhausted)]
    return tuple(sorted(found, key=lambda cause: (-cause.slots * _WEIGHTS[cause.kind], not cause.certain)))


def _concerned(slot: Slot, shortages: Sequence[Shortage]) -> bool:
    """Whether a slot counts against what is used up, or nearly."""
    backend = slot.backend
    return any(
        shortage.role in (None, backend.user) and shortage.database in (None, backend.database)
        for shortage in shortages
    )


def _pooling(facts: ServerFacts, joined: Joined, slots: Iterable[Slot]) -> Iterator[Cause]:
    """Connections that are kept and not used: each a slot that another program could have."""
    idle = [slot for slot in slots if slot.backend.state == "idle"]
    if not idle:
        return
    keepers = Counter(map(_keeper, idle))
    yield Cause(
        kind="pooling",
        certain=False,
        slots=len(idle),
        title=f"{plural(len(idle), 'idle connection')} kept, and not used",
        evidence=(
            Evidence(label="server", text=states(facts, idle)),
            *(Evidence(label="kept by", text=f"{who} x{count}") for who, count in keepers.most_common(_KEEPERS_SHOWN)),
            *(Evidence(label="arithmetic", text=line) for line in arithmetic(facts, joined)),
        ),
        fix="Smaller pools, so that processes x (pool_size + max_overflow) is below the limit, or PgBouncer.",
        next=("leakguard top",),
        pids=tuple(slot.backend.pid for slot in idle),
    )


def _keeper(slot: Slot) -> str:
    if slot.hold is not None:
        return f"the holder of {site_words(slot.site)}"
    if slot.keeper == "pool":
        return f'pool "{shown(slot.pool or "")}" of {process_words(slot.process)}'
    return stranger(slot)


def arithmetic(facts: ServerFacts, joined: Joined, clients: int | None = None) -> Iterator[str]:
    """Processes times the size of their pools, against the limit; `clients` is how many PgBouncer takes.

    Of pools in processes that nobody guards, the sizes are unknown: what they have now has to do.
    """
    for pooled, limit in ((False, facts.capacity.ordinary), (True, clients)):
        uses = [use for use in joined.pools if use.through_pooler is pooled]
        others = list(_unguarded(joined, pooled=pooled))
        for use in uses:
            name = f'{processes(use.processes)} x pool "{shown(use.name)}"'
            size = f"of {use.capacity} = {use.processes * use.capacity}" if use.capacity else "without a limit"
            yield f"{name} {size}, {use.open} open now"
        yield from (words for words, _ in others)
        if uses and limit is not None:
            total = sum(use.processes * (use.capacity or use.open) for use in uses) + sum(count for _, count in others)
            beyond = " and more" if any(use.capacity is None for use in uses) else ""
            whose = "PgBouncer takes" if pooled else "ordinary roles have"
            yield f"together {total}{beyond}, {'more than' if total > limit else 'within'} the {limit} that {whose}"


def _unguarded(joined: Joined, *, pooled: bool) -> Iterator[tuple[str, int]]:
    """Connections that no guard has seen, by program: how many of their processes have how many connections now."""
    found: dict[str, Counter[object]] = {}
    for slot in joined.slots:
        if slot.keeper in ("process", "remote", "foreign", "socket") and (slot.through is not None) is pooled:
            name = slot.process.command if slot.process is not None else slot.backend.application
            peer = slot.process or (slot.through.address if slot.through is not None else slot.backend.client)
            found.setdefault(name, Counter())[peer] += 1
    for name, peers in found.items():
        total, most = sum(peers.values()), max(peers.values())
        each = f" up to {most} each" if len(peers) > 1 else ""
        seen = all(isinstance(peer, Process) for peer in peers)
        where = processes(len(peers)) if seen else plural(len(peers), "host")
        yield f'{where} of "{shown(name)}", unseen by any guard,{each} = {total} now', total


def _load(facts: ServerFacts, slots: Iterable[Slot]) -> Iterator[Cause]:
    """Sessions that work, or that a program has and will give back; those with a long transaction apart."""
    active = [slot for slot in slots if slot.backend.state not in ("idle", "starting", None)]
    long = [slot for slot in active if age(facts, slot.backend.transaction_since) >= LONG]
    short = [slot for slot in active if slot not in long]
    if long:
        yield Cause(
            kind="transaction",
            certain=False,
            slots=len(long),
            title=f"{plural(len(long), 'long transaction')}",
            evidence=tuple(_use(facts, long)),
            fix="Shorter transactions: commit batches, and keep reports and other services out of them.",
            next=("leakguard top",),
            pids=tuple(slot.backend.pid for slot in long),
        )
    if short:
        yield Cause(
            kind="load",
            certain=False,
            slots=len(short),
            title=f"{plural(len(short), 'connection')} in use",
            evidence=tuple(_use(facts, short)),
            fix="If they are short, the load is real: shorten the slow statements, or queue in front of the database.",
            next=("leakguard top",),
            pids=tuple(slot.backend.pid for slot in short),
        )


def _use(facts: ServerFacts, slots: Sequence[Slot]) -> Iterator[Evidence]:
    lines = Counter(site_words(slot.site) if slot.hold is not None else stranger(slot) for slot in slots)
    yield Evidence(label="server", text=states(facts, slots))
    for where, count in lines.most_common(_KEEPERS_SHOWN):
        yield Evidence(label="in use at", text=f"{where} x{count}")


def _limit(facts: ServerFacts, exhausted: Iterable[Shortage]) -> Iterator[Cause]:
    """The limit itself: the first thing to look at for one role or database, the last one for the whole server."""
    room = max(facts.capacity.ordinary - facts.capacity.used - facts.capacity.hidden, 0)
    for shortage in exhausted:
        twice = 2 * shortage.limit
        match shortage.kind:
            case "server":
                next_ = f"ALTER SYSTEM SET max_connections = {2 * facts.capacity.max_connections};   (needs a restart)"
            case "role":
                next_ = f"ALTER ROLE {_identifier(shortage.role or '')} CONNECTION LIMIT {twice};"
            case "database":
                next_ = f"ALTER DATABASE {_identifier(shortage.database or '')} CONNECTION LIMIT {twice};"
            case "pool":
                next_ = f"pool_size or default_pool_size = {twice} in pgbouncer.ini, then RELOAD in its console"
            case "clients":
                next_ = f"max_client_conn = {twice} in pgbouncer.ini, then RELOAD in its console"
            case _:
                assert_never(shortage.kind)
        last = "the last resort: each connection costs memory, and a leak fills any limit"
        yield Cause(
            kind="limit",
            certain=shortage.kind != "server" and room > 0,
            slots=0,
            title=f"{shortage.what}: {shortage.used} of {shortage.limit}",
            evidence=(Evidence(label="room", text=f"the server has {plural(room, 'slot')} free" if room else last),),
            fix="Raise it once nothing above explains the slots.",
            next=(next_,),
        )


def _identifier(name: str) -> str:
    return '"' + shown(name).replace('"', '""') + '"'
