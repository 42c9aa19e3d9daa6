"""Who can be blamed for a slot: a line of code, a program, a client that is gone or has never logged in.

These are causes at any time, whether a limit is reached or not. Pure functions of what was joined.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from leakguard.incident.doctor.model import Cause, Evidence, Joined, ServerFacts, Slot
from leakguard.incident.doctor.words import (
    PIDS_SHOWN,
    age,
    names,
    pid_words,
    process_words,
    processes,
    site_words,
    states,
    stranger,
)
from leakguard.judging.wording import advice_for, duration
from leakguard.model import Kind, LeakCount, Site, Snapshot
from leakguard.prose.phrases import now_words, owner_words, plural, shown

STUCK: Final = 60.0
"""Seconds after which a transaction in which nothing runs is called stuck."""


def blamed(facts: ServerFacts, joined: Joined, snapshots: Iterable[Snapshot]) -> list[Cause]:
    """All of them, in no order."""
    slots = [slot for slot in joined.slots if slot.keeper != "doctor"]
    return [
        *_lines(facts, slots),
        *_strangers(facts, slots),
        *_lost(joined, snapshots),
        *_authentication(facts, joined),
        *_zombies(facts, slots),
    ]


# ------------------------------------------------------------------------------------------------- lines to blame


def _lines(facts: ServerFacts, slots: Iterable[Slot]) -> Iterator[Cause]:
    """Leaks and stuck transactions of guarded processes, one cause a line of code."""
    groups: dict[tuple[str | None, Site | None], list[Slot]] = {}
    for slot in slots:
        if slot.hold is not None and _to_blame(facts, slot):
            groups.setdefault((slot.fingerprint, slot.site), []).append(slot)
    for (fingerprint, site), members in groups.items():
        yield _line(facts, fingerprint, site, members)


def _to_blame(facts: ServerFacts, slot: Slot) -> bool:
    if slot.proven or slot.keeper == "zombie":
        return True
    if slot.backend.blocked_by:  # a victim
        return False
    if slot.allowed:
        return bool(slot.blocks)
    return slot.suspected or _stuck(facts, slot)


def _stuck(facts: ServerFacts, slot: Slot) -> bool:
    """Whether it blocks others, or does nothing in a transaction for long."""
    backend = slot.backend
    if slot.blocks and not backend.blocked_by:
        return True
    return (backend.state or "").startswith("idle in transaction") and age(facts, backend.state_since) >= STUCK


def _line(facts: ServerFacts, fingerprint: str | None, site: Site | None, members: Sequence[Slot]) -> Cause:
    proven = [slot for slot in members if slot.proven]
    worst = max(proven or members, key=_held_for)
    assert worst.hold is not None
    hold, blocked = worst.hold.hold, _blocked(members)
    leak = bool(proven) or not any(_stuck(facts, slot) for slot in members)
    what = "not given back" if proven else "held for too long" if leak else "in a transaction that does not end"
    cure = next((slot.hold.cure for slot in members if slot.hold is not None and slot.hold.cure), None)
    return Cause(
        kind="leak" if leak else "transaction",
        certain=bool(proven),
        slots=len(members) + len(blocked),
        title=f"{plural(len(members), 'slot')} {what}",
        site=site,
        fingerprint=fingerprint,
        evidence=tuple(_line_evidence(facts, members, worst, blocked)),
        fix=cure or advice_for(_kind(worst, leak=leak), hold.library, is_async=hold.owner.task is not None),
        next=tuple(_line_next(fingerprint, members)),
        pids=tuple(slot.backend.pid for slot in members) + blocked,
        hold=hold,
    )


def _held_for(slot: Slot) -> float:
    return slot.hold.hold.held_for if slot.hold is not None else 0.0


def _kind(slot: Slot, *, leak: bool) -> Kind:
    if not leak:
        return "idle_in_transaction"
    if slot.hold is not None and slot.hold.hold.state == "closed":
        return "lost_slot"
    return "orphaned" if slot.proven else "overdue"


def _line_evidence(
    facts: ServerFacts, members: Sequence[Slot], worst: Slot, blocked: Sequence[int]
) -> Iterator[Evidence]:
    assert worst.hold is not None
    hold = worst.hold.hold
    owners = owner_words(hold.owner.test, hold.owner.task, hold.owner.thread, hold.owner.labels.items())
    processes = Counter(process_words(slot.process) for slot in members if slot.process is not None)
    yield Evidence(label="owner", text=", ".join(owners) or "unknown")
    for words in now_words(worst.hold.now, hold.owner):
        yield Evidence(label="now", text=words)
    yield Evidence(label="process", text=", ".join(names(processes)) or "unknown")
    yield Evidence(label="held for", text=_span([_held_for(slot) for slot in members]))
    yield Evidence(label="server", text=f"{states(facts, members)}; {pid_words(slot.backend.pid for slot in members)}")
    statement = hold.last_statement or worst.backend.statement
    if statement:
        yield Evidence(label="last sql", text=shown(statement))
    if blocked:
        yield Evidence(label="blocks", text=f"{plural(len(blocked), 'other session')}, {pid_words(blocked)}")
    kept = next((slot.hold.kept_by for slot in (worst, *members) if slot.hold is not None and slot.hold.kept_by), ())
    for at, step in enumerate(kept):
        yield Evidence(label="kept by", text=f"in {shown(step)}" if at else shown(step))
    unsure = sum(1 for slot in members if not slot.sure)
    if unsure:
        yield Evidence(label="unsure", text=f"{unsure} matched by process id alone")
    told = sum(1 for slot in members if not slot.live)
    if told:
        yield Evidence(label="source", text=f"{told} of them as a file told, which may be over by now")


def _line_next(fingerprint: str | None, members: Sequence[Slot]) -> Iterator[str]:
    typed = fingerprint is not None and re.fullmatch(r"[0-9a-f]{12}", fingerprint)  # it may come from anywhere
    if typed and any(slot.live and slot.sure for slot in members):
        yield f"this command with --terminate --fingerprint {fingerprint}"
    process = next((slot.process for slot in members if slot.process is not None), None)
    if process is not None:
        live = any(slot.live for slot in members)
        yield f"leakguard dump {process.pid}" + ("" if live else f"   (on {shown(process.host)})")


# ------------------------------------------------------------------------------------------ sessions of strangers


def _strangers(facts: ServerFacts, slots: Iterable[Slot]) -> Iterator[Cause]:
    """Stuck transactions that no guarded process has, one cause a program."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        if slot.hold is None and _stuck(facts, slot):
            groups.setdefault(stranger(slot), []).append(slot)
    for who, members in groups.items():
        blocked = _blocked(members)
        worst = max(members, key=lambda slot: (len(slot.blocks), age(facts, slot.backend.state_since)))
        evidence = [
            Evidence(label="who", text=who),
            Evidence(
                label="server", text=f"{states(facts, members)}; {pid_words(slot.backend.pid for slot in members)}"
            ),
        ]
        if worst.backend.statement:
            evidence.append(Evidence(label="last sql", text=shown(worst.backend.statement)))
        if blocked:
            evidence.append(
                Evidence(label="blocks", text=f"{plural(len(blocked), 'other session')}, {pid_words(blocked)}")
            )
        yield Cause(
            kind="transaction",
            certain=False,
            slots=len(members) + len(blocked),
            title=f"{plural(len(members), 'slot')} in a transaction that does not end",
            evidence=tuple(evidence),
            fix="No guarded process has it, so its line is unknown: start that program under `leakguard run`.",
            next=(f"SELECT pg_terminate_backend({worst.backend.pid});   (in psql, frees one)",),
            pids=tuple(slot.backend.pid for slot in members) + blocked,
        )


def _zombies(facts: ServerFacts, slots: Iterable[Slot]) -> Iterator[Cause]:
    members = [slot for slot in slots if slot.keeper == "zombie" and slot.hold is None]
    if members:
        yield Cause(
            kind="zombie",
            certain=True,
            slots=len(members),
            title=f"{plural(len(members), 'session')} whose client is gone",
            evidence=(
                Evidence(label="server", text=f"{states(facts, members)}; {pid_words(s.backend.pid for s in members)}"),
            ),
            fix="The server notices only when it next writes: set client_connection_check_interval = '10s'.",
            next=(f"SELECT pg_terminate_backend({members[0].backend.pid});   (in psql, frees one)",),
            pids=tuple(slot.backend.pid for slot in members),
        )


def _authentication(facts: ServerFacts, joined: Joined) -> Iterator[Cause]:
    """Connections that have not logged in: they take a slot each, and before PostgreSQL 18 no view shows them."""
    starting = [slot for slot in joined.slots if slot.backend.state == "starting"]
    count = len(starting) + facts.capacity.hidden
    if count < 2:
        return
    who = [f"{process_words(process)} x{number}" for process, number in joined.unlogged]
    who += [f"{stranger(slot)}" for slot in starting[:PIDS_SHOWN]]
    timeout = facts.settings.get("authentication_timeout", "60")
    hidden = f"{plural(facts.capacity.hidden, 'slot')} taken by what pg_stat_activity does not show"
    yield Cause(
        kind="authentication",
        certain=False,
        slots=count,
        title=f"{plural(count, 'slot')} held by connections that are still logging in",
        evidence=tuple(
            Evidence(label=label, text=text)
            for label, text in (
                ("server", hidden if facts.capacity.hidden else f"{len(starting)} in state starting"),
                ("who", ", ".join(dict.fromkeys(who)) or "not a process of this host that we may see"),
                ("ends", f"each after authentication_timeout = {timeout} s"),
            )
        ),
        fix="Look for a health check, proxy or scanner that connects and never logs in.",
        pids=tuple(slot.backend.pid for slot in starting),
    )


def _lost(joined: Joined, snapshots: Iterable[Snapshot]) -> Iterator[Cause]:
    """Pools that have lost slots for good: the server has no connection there, and yet nobody gets one."""
    for use in joined.pools:
        if not use.lost:
            continue
        lines: Counter[tuple[str, Site | None]] = Counter()
        for snapshot in snapshots:
            if any(pool.lost and (pool.name, pool.created_at) == (use.name, use.site) for pool in snapshot.pools):
                for leak in snapshot.leaks:
                    if _loses_slots(leak):
                        lines[leak.fingerprint, leak.site] += leak.count
        top = lines.most_common(1)
        (fingerprint, site) = top[0][0] if top else (None, None)
        others = [f"{site_words(where)} x{count}" for (_, where), count in lines.most_common(4)[1:]]
        usage = f"{use.held} held, {use.pending} waiting" + (f", capacity {use.capacity}" if use.capacity else "")
        yield Cause(
            kind="leak",
            certain=True,
            slots=0,
            title=f'{plural(use.lost, "slot")} of pool "{shown(use.name)}" lost for good (none of the server\'s)',
            site=site,
            fingerprint=fingerprint,
            evidence=(
                Evidence(label="pool", text=f"in {processes(use.processes)}: {usage}"),
                *(Evidence(label="also at", text=words) for words in others),
            ),
            fix=advice_for("dropped", use.library, is_async=False),
            next=("leakguard dump",),
        )


def _loses_slots(leak: LeakCount) -> bool:
    return leak.certain and leak.kind in ("dropped", "lost_slot")


# ------------------------------------------------------------------------------------------------------------- pieces


def _blocked(members: Iterable[Slot]) -> tuple[int, ...]:
    own = {slot.backend.pid for slot in members}
    return tuple(sorted({pid for slot in members for pid in slot.blocks} - own))


def _span(values: Sequence[float]) -> str:
    longest, shortest = max(values), min(values)
    return duration(longest) if len(values) == 1 else f"{duration(shortest)} to {duration(longest)}"
