"""Who holds what right now, as text for people: the worst first, one block for each bug, over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

from leakguard.cures import Cure, cure
from leakguard.judging.wording import advice_for, duration
from leakguard.model import KINDS, HoldNow, Kind, PoolNow, Site, Snapshot, State
from leakguard.prose import layout, phrases
from leakguard.prose.layout import WIDTH
from leakguard.prose.phrases import plural, shown

Verdict: TypeAlias = Literal["LEAK", "SUSPECT", "HELD", "ALLOWED"]

HOLDS_SHOWN: Final = 5
"""How many holds of a block have a line of their own, unless all are asked for."""
PLACES_SHOWN: Final = 3
ORDER: Final[Sequence[Verdict]] = ("LEAK", "SUSPECT", "HELD", "ALLOWED")
"""The verdicts, the worst first."""
STATE_WORDS: Final[Mapping[State, str]] = {
    "idle": "idle",
    "active": "running",
    "in_transaction": "in transaction",
    "in_error": "in failed tx",
    "closed": "closed",
    "unknown": "?",
}
"""A state in a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """The holds of one bug, the oldest first, each with the snapshot that it is from."""

    fingerprint: str
    verdict: Verdict
    members: tuple[tuple[Snapshot, HoldNow], ...]

    @property
    def oldest(self) -> HoldNow:
        """The hold that lasts longest."""
        return self.members[0][1]


def grouped(snapshots: Iterable[Snapshot]) -> list[Holders]:
    """All holds by bug, the worst first: proven before suspected, then the most, then the oldest."""
    found: dict[tuple[str, Site | None], list[tuple[Snapshot, HoldNow]]] = {}
    for snapshot in snapshots:
        for one in snapshot.holds:
            found.setdefault((one.fingerprint, one.hold.site), []).append((snapshot, one))
    groups = [
        Holders(
            fingerprint=fingerprint,
            verdict=min((verdict_of(one) for _, one in members), key=ORDER.index),
            members=tuple(sorted(members, key=lambda member: -member[1].hold.held_for)),
        )
        for (fingerprint, _), members in found.items()
    ]
    return sorted(
        groups, key=lambda group: (ORDER.index(group.verdict), -len(group.members), -group.oldest.hold.held_for)
    )


def verdict_of(one: HoldNow) -> Verdict:
    """How sure it is that this hold is a leak: proven, suspected, or just held."""
    if one.allowed is not None:
        return "ALLOWED"
    if one.proven:
        return "LEAK"
    return "SUSPECT" if one.suspected or one.now.owner == "ended" else "HELD"


def is_clean(snapshot: Snapshot) -> bool:
    """Whether the process has found no certain leak, and holds nothing that it suspects."""
    holds = (verdict_of(one) for one in snapshot.holds)
    return not any(found.certain for found in snapshot.leaks) and not any(one in ("LEAK", "SUSPECT") for one in holds)


def with_cures(snapshot: Snapshot) -> Snapshot:
    """The snapshot with `cure` filled in for each hold, where the source is at hand and makes clear what is wrong."""
    cures: dict[object, str | None] = {}
    holds = []
    for one in snapshot.holds:
        hold = one.hold
        key = (hold.site, hold.library, hold.operation)
        if key not in cures:
            site = hold.site
            found = (
                cure(site.file, site.line, site.function, hold.library, hold.operation, code=site.code)
                if site is not None
                else None
            )
            cures[key] = _cure_text(found) if found is not None else None
        holds.append(replace(one, cure=cures[key]))
    return replace(snapshot, holds=tuple(holds))


def _cure_text(found: Cure) -> str:
    return f"{found.sentence}\n{found.after}"


# ---------------------------------------------------------------------------------------------------------- as text


def render_snapshots(snapshots: Sequence[Snapshot], *, color: bool = False, everything: bool = False) -> str:
    """What these processes hold: a headline, a line or two for each process, then one block a bug.

    `everything` shows every hold and every frame.
    """
    groups = grouped(snapshots)
    blocks = [_headline(snapshots, groups)]
    blocks += ["\n".join(_process_lines(snapshot)) for snapshot in snapshots]
    blocks += ["\n".join(block(group, color=color, everything=everything)) for group in groups]
    return "\n\n".join(blocks)


def _headline(snapshots: Sequence[Snapshot], groups: Sequence[Holders]) -> str:
    held = sum(len(group.members) for group in groups)
    left_out = sum(snapshot.left_out for snapshot in snapshots)
    words = f"{plural(held + left_out, 'connection')} held"
    if groups:
        words += f" at {plural(len(groups), 'place')}"
    if len(snapshots) != 1:
        words += f" by {len(snapshots)} processes"
    return f"{words} (the newest {left_out} are left out)" if left_out else words


def _process_lines(snapshot: Snapshot) -> Iterator[str]:
    age = duration(max((snapshot.time - snapshot.started_at).total_seconds(), 0.0))
    name = phrases.process_words(snapshot.pid, snapshot.process, snapshot.host)
    yield f"{name}, at {snapshot.time:%H:%M:%S} UTC, up for {age}"
    for pool in snapshot.pools:
        yield from layout.packed("pool", _pool_pieces(pool), WIDTH)
        if pool.error is not None:
            yield from layout.sentences("error", pool.error, WIDTH)
    yield from layout.packed("found", found_words(snapshot), WIDTH)
    if snapshot.internal_errors:
        yield f"  {plural(snapshot.internal_errors, 'internal error')} of leakguard, please report"


def _pool_pieces(pool: PoolNow) -> Iterator[str]:
    yield phrases.pool_words(pool.name, pool.library)
    yield f"{pool.held} of {pool.capacity} held" if pool.capacity is not None else f"{pool.held} held"
    yield f"{pool.open} open"
    for count, words in ((pool.pending, "waiting"), (pool.timeouts, "timed out"), (pool.lost, "lost for good")):
        if count:
            yield f"{count} {words}"
    if pool.created_at is not None:
        yield f"created at {phrases.place(pool.created_at)}"


def found_words(snapshot: Snapshot) -> Iterator[str]:
    """``3 dropped``: what the process has found so far, by kind, the worst first."""
    counts: Counter[Kind] = Counter()
    for found in snapshot.leaks:
        counts[found.kind] += found.count
    for kind in KINDS:
        if counts[kind]:
            yield f"{counts[kind]} {kind}"


def block(group: Holders, *, color: bool = False, everything: bool = False, width: int = WIDTH) -> list[str]:
    """The lines about one bug: the line that acquires, where its owners are, each hold, and what to do."""
    oldest, hold = group.oldest, group.oldest.hold
    count, age = len(group.members), duration(hold.held_for)
    head = (f"x{count}  {'oldest ' if count > 1 else ''}{age}", shown(group.fingerprint), phrases.place(hold.site))
    lines = [layout.headline(group.verdict, *head, color=color)]
    how = f"by {shown(hold.library)} {shown(hold.operation)}"
    lines += layout.source(hold.site, how, hold.operation)
    lines += layout.callers(hold.stack, hold.site, all_frames=everything)
    lines += layout.listed("now", _whereabouts(group))
    address = replace(hold.server, backend_pid=None, client_port=None) if hold.server is not None else None
    lines += layout.packed("server", phrases.server_pieces(address), width)
    lines += layout.listed("last sql", _statements(group))
    lines += _table(group, HOLDS_SHOWN if not everything else count)
    kept = next((one.kept_by for _, one in group.members if one.kept_by is not None), None)
    lines += layout.listed(
        "kept by", (f"in {shown(step)}" if at else shown(step) for at, step in enumerate(kept or ()))
    )
    lines += layout.sentences("allowed", oldest.allowed, width) if oldest.allowed is not None else []
    return lines + _remedy(group, width)


def _whereabouts(group: Holders) -> Iterator[str]:
    """Where the owners are now: of several, how many are at the same place."""
    places: Counter[tuple[str, ...]] = Counter()
    nouns: Counter[str] = Counter()
    for _, one in group.members:
        owner = one.hold.owner
        nouns["task" if owner.task is not None else "thread"] += 1
        places[tuple(phrases.now_words(one.now, owner))] += 1
    shown_places = [(words, count) for words, count in places.most_common() if words]
    for (first, *callers), count in shown_places[:PLACES_SHOWN]:
        yield first if len(group.members) == 1 else f"{count} x {first}"
        yield from callers
    if len(shown_places) > PLACES_SHOWN:
        rest = sum(count for _, count in shown_places[PLACES_SHOWN:])
        yield f"({rest} at {len(shown_places) - PLACES_SHOWN} other places)"


def _statements(group: Holders) -> Iterator[str]:
    """The last statements; of several, the most frequent."""
    counts = Counter(one.hold.last_statement for _, one in group.members if one.hold.last_statement is not None)
    for statement, _ in counts.most_common(1):
        more = f"  (and {plural(len(counts) - 1, 'other')})" if len(counts) > 1 else ""
        yield f"{shown(statement)}{more}"


def _table(group: Holders, limit: int) -> Iterator[str]:
    """One line a hold: since when, last used when, its state, its backend, whose."""
    several = len({snapshot.pid for snapshot, _ in group.members}) > 1
    yield (
        f"  {'held':8}{'unused':8}{'state':16}{'backend':>8}  {'pid':>7}  owner"
        if several
        else (f"  {'held':8}{'unused':8}{'state':16}{'backend':>8}  owner")
    )
    for snapshot, one in group.members[:limit]:
        pid = f"  {snapshot.pid:>7}" if several else ""
        yield f"  {columns(snapshot, one)}{pid}  {owner_words(one)}"
    if len(group.members) > limit:
        yield f"  ({len(group.members) - limit} more)"


def columns(snapshot: Snapshot, one: HoldNow) -> str:
    """A hold in 40 columns: for how long it is held, and unused, its state, its backend's process."""
    hold = one.hold
    used = hold.last_used_at
    unused = "never" if used is None else duration(max((snapshot.time - used).total_seconds(), 0.0))
    backend = hold.server.backend_pid if hold.server is not None else None
    return f"{duration(hold.held_for):8}{unused:8}{STATE_WORDS[hold.state]:16}{'' if backend is None else backend:>8}"


def owner_words(one: HoldNow) -> str:
    """Whose it is, and whether that one still runs."""
    owner = one.hold.owner
    words = phrases.owner_words(owner.test, owner.task, owner.thread, owner.labels.items())
    return f"{', '.join(words) or 'unknown'}{', ended' if one.now.owner == 'ended' else ''}"


def _remedy(group: Holders, width: int) -> list[str]:
    """What to do about it, where that is known, or the hold is suspected."""
    oldest = group.oldest
    if oldest.cure is not None:
        sentence, _, code = oldest.cure.partition("\n")
        return [*layout.sentences("fix", sentence, width), *layout.instead(code)]
    if group.verdict not in ("LEAK", "SUSPECT"):
        return []
    kind: Kind = oldest.suspected[0] if oldest.suspected else "orphaned"
    advice = advice_for(kind, oldest.hold.library, is_async=oldest.hold.owner.task is not None)
    return layout.sentences("fix", advice, width)
