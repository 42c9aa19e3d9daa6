"""The text of each event: a leak's block, several leaks, who holds an exhausted pool, a process's counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, assert_never

from leakguard.judging.wording import duration
from leakguard.model import Cause, Event, Exhausted, HolderGroup, Leak, PoolInfo, Recovered, Summary
from leakguard.prose.layout import WIDTH, acquisition, headline, listed, packed, remedy, sentences
from leakguard.prose.phrases import (
    frame_words,
    held_pieces,
    kind_words,
    now_words,
    owner_pieces,
    place,
    plural,
    pool_words,
    process_words,
    quoted,
    server_pieces,
    severity,
    shown,
    state_words,
    summary_words,
    tally,
    verdict,
    verdict_of,
)

HOLDERS_SHOWN: Final = 10
"""How many places an exhausted pool's block lists."""
_CAUSE_WORDS: Final[Mapping[Cause, str]] = {
    "pool": "pool",
    "server": "the server has no connection slot left",
    "reserved": "the server's last connection slots are reserved",
    "role": "the role is at its connection limit",
    "database": "the database is at its connection limit",
    "pooler": "the connection pooler has no connection left",
}


def render_event(event: Event, *, width: int = WIDTH, color: bool = False, all_frames: bool = False) -> str:
    """The text of any event, without a newline at its end; empty for what is not worth a line."""
    match event:
        case Leak():
            return render_leak(event, width=width, color=color, all_frames=all_frames)
        case Recovered():
            return _render_recovered(event, color=color)
        case Exhausted():
            return render_exhausted(event, width=width, color=color)
        case Summary():
            return render_summary(event)
        case _:
            assert_never(event)


def render_leak(
    leak: Leak, *, width: int = WIDTH, color: bool = False, all_frames: bool = False, kept_by: str | None = None
) -> str:
    """One finding as a block of lines. `all_frames` shows the frames of libraries too; `kept_by` says what keeps the
    connection alive, where somebody has searched for it."""
    return _leak_text(leak, (), width, color, all_frames, kept_by)


def _leak_text(
    leak: Leak, also: Iterable[str], width: int, color: bool, all_frames: bool, kept_by: str | None = None
) -> str:
    hold = leak.hold
    lines = [
        headline(
            verdict_of(leak),
            kind_words(leak.kind, leak.boundary),
            shown(leak.fingerprint),
            f"x{leak.count}",
            place(leak.site),
            color=color,
        )
    ]
    lines += acquisition(leak, all_frames=all_frames)
    if hold is not None:
        lines += packed("owner", owner_pieces(hold.owner), width)
        lines += listed("now", now_words(leak.now, hold.owner))
        lines += packed("held for", held_pieces(hold, leak.time), width)
        lines += packed("state", [state_words(hold.state)], width)
        lines += packed("last sql", [shown(hold.last_statement) if hold.last_statement else None], width)
        lines += packed("server", server_pieces(hold.server), width)
    lines += packed("pool", _pool_pieces(leak), width)
    lines += packed("healed", [_healed(leak)], width)
    lines += packed("also here", also, width)
    lines += sentences("why", leak.reason, width)
    lines += remedy(leak, width, kept_by)
    return "\n".join(lines)


def render_leaks(leaks: Sequence[Leak]) -> str:
    """Several findings: how many at how many places, then one block a fingerprint, the worst kinds first.

    The count of a block is how many of `leaks` it stands for, not how many the process has ever had.
    """
    groups: dict[str, list[Leak]] = {}
    for leak in leaks:
        groups.setdefault(leak.fingerprint, []).append(leak)
    ordered = sorted(groups.values(), key=lambda group: (min(severity(leak) for leak in group), -len(group)))
    blocks = [tally(sum(leak.certain for leak in leaks), sum(not leak.certain for leak in leaks), len(groups))]
    for group in ordered:
        kinds = Counter(leak.kind for leak in group)
        worst = min(reversed(group), key=severity)  # of the worst kind, the newest
        folded = replace(worst, count=kinds.pop(worst.kind))
        also = [f"{kind} x{count}" for kind, count in kinds.items()]
        blocks.append(_leak_text(folded, also, WIDTH, color=False, all_frames=False))
    return "\n\n".join(blocks)


def render_exhausted(event: Exhausted, *, width: int = WIDTH, color: bool = False) -> str:
    """Who holds the connections that somebody could not get: one line a place, with ``file.py:LINE`` in it."""
    what = _CAUSE_WORDS[event.cause]
    if event.pool is not None:
        what = f"{what} {quoted(event.pool)}" if event.cause == "pool" else f"{what} (pool {quoted(event.pool)})"
    limit = f" of {event.capacity}" if event.capacity is not None else ""
    lost = f", {plural(event.lost, 'slot')} lost" if event.lost else ""
    times = f"  x{event.count}" if event.count > 1 else ""
    lines = [f"{verdict('EXHAUSTED', color)} {what}: {event.held}{limit} held by this process{lost}{times}"]
    lines += sentences("error", event.error, width)
    hidden = event.holders[HOLDERS_SHOWN:]
    pad = len(str(max((group.count for group in event.holders), default=0)))
    holders = [_holder(group, pad) for group in event.holders[:HOLDERS_SHOWN]]
    if hidden:
        holders.append(f"({sum(group.count for group in hidden)} more at {plural(len(hidden), 'other place')})")
    return "\n".join([*lines, *listed("held at", holders or ["no place that leakguard has seen"])])


def render_summary(event: Summary) -> str:
    """The counts of one process on one line; empty where there was neither a leak nor an internal error."""
    if not any(event.leaks.values()) and not event.internal_errors:
        return ""
    return f"summary of {process_words(event.pid, event.process, event.host)}: {summary_words(event)}"


def _render_recovered(event: Recovered, *, color: bool) -> str:
    words = f"{kind_words(event.kind)} came back after {duration(event.held_for)}"
    return headline("RECOVERED", words, shown(event.fingerprint), place(event.hold.site), color=color)


def _pool_pieces(leak: Leak) -> list[str]:
    pool = leak.pool
    if pool is None:
        return [quoted(leak.hold.pool)] if leak.hold is not None and leak.hold.pool is not None else []
    pieces = [pool_words(pool.name, pool.library)]
    usage = _usage(pool)
    if usage:
        pieces.append(usage)
    if pool.created_at is not None and pool.created_at != leak.site:
        pieces.append(f"created at {place(pool.created_at)}")
    return pieces


def _usage(pool: PoolInfo) -> str | None:
    if pool.open is None:
        return f"capacity {pool.capacity}" if pool.capacity is not None else None
    if pool.capacity is None:
        return f"{plural(pool.open, 'connection')} open"
    return f"{pool.open} of {plural(pool.capacity, 'connection')} open"


def _healed(leak: Leak) -> str | None:
    if leak.kind != "dropped":  # elsewhere there is nothing to heal
        return None
    return "yes, the library took the connection back by itself" if leak.healed else "no"


def _holder(group: HolderGroup, pad: int) -> str:
    where = frame_words(group.site) if group.site is not None else place(None)
    return f"x{group.count:<{pad}} {where}, oldest {duration(group.oldest)}  {shown(group.fingerprint)}"
