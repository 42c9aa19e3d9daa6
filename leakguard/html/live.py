"""The page of one or several running processes, each told by a snapshot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from leakguard.html import facts
from leakguard.html.page import LIMIT, VERDICTS, Bug, Fact, Hold, Page, Process, Sample, Span, Track, Verdict
from leakguard.judging.wording import advice_for, duration
from leakguard.model import KINDS, HoldNow, Kind, LeakCount, PoolNow, Site, Snapshot
from leakguard.prose import holders, phrases

_CAPTION: Final = (
    "What is held now, each connection since it was acquired. Whatever was given back before is not drawn: earlier, "
    "the true number was this or more. The bar at the end is an exact count of the pool."
)


@dataclass(slots=True)
class Group:
    """Everything with one fingerprint, over all processes."""

    fingerprint: str
    holds: list[tuple[Snapshot, HoldNow]] = field(default_factory=list)
    counts: Counter[Kind] = field(default_factory=Counter)
    certain: set[Kind] = field(default_factory=set)
    latest: LeakCount | None = None

    def add(self, found: LeakCount) -> None:
        """Take one of the counts into account."""
        self.counts[found.kind] += found.count
        if found.certain:
            self.certain.add(found.kind)
        if self.latest is None or found.time >= self.latest.time:
            self.latest = found

    @property
    def site(self) -> Site | None:
        """Where it acquires, as far as it is told."""
        if self.holds:
            return self.holds[0][1].hold.site
        return self.latest.site if self.latest is not None else None

    @property
    def verdict(self) -> Verdict:
        """The worst of what was found and of what is held."""
        held = {holders.verdict_of(one) for _, one in self.holds}
        if self.certain or "LEAK" in held:
            return "leak"
        if any(kind != "nested_acquire" for kind in self.counts) or "SUSPECT" in held:
            return "suspect"
        return "advice" if self.counts else "held"


def page(snapshots: Sequence[Snapshot], made_at: datetime) -> Page:
    """The page of these processes."""
    room, bugs = LIMIT, []
    for group in groups(snapshots):
        bugs.append(bug(group, room))
        room -= len(bugs[-1].holds)
    tracks = [track for snapshot in snapshots for track in _tracks(snapshot)]
    return Page(
        live=True,
        made_at=made_at,
        headline=_headline(snapshots),
        about=_about(snapshots),
        caption=_CAPTION,
        notes=tuple(notes(snapshots)),
        tracks=tuple(sorted(tracks, key=lambda track: (-_fullness(track), -len(track.spans), track.name))),
        bugs=tuple(bugs),
        processes=tuple(process(snapshot) for snapshot in snapshots),
    )


def groups(snapshots: Iterable[Snapshot]) -> list[Group]:
    """All that these processes hold and have found, by bug, the worst first."""
    found: dict[str, Group] = {}
    for snapshot in snapshots:
        for one in snapshot.holds:
            found.setdefault(one.fingerprint, Group(one.fingerprint)).holds.append((snapshot, one))
        for counted in snapshot.leaks:
            found.setdefault(counted.fingerprint, Group(counted.fingerprint)).add(counted)
    return sorted(
        found.values(),
        key=lambda group: (
            VERDICTS.index(group.verdict),
            -len(group.holds),
            -sum(group.counts.values()),
            group.fingerprint,
        ),
    )


def _headline(snapshots: Sequence[Snapshot]) -> str:
    held = sum(snapshot.held for snapshot in snapshots)
    return f"{phrases.plural(held, 'connection')} held now; {found_words(snapshots)}"


def found_words(snapshots: Iterable[Snapshot]) -> str:
    """How much these processes have found so far."""
    found = [one for snapshot in snapshots for one in snapshot.leaks if one.kind != "nested_acquire"]
    leaks = sum(one.count for one in found if one.certain)
    suspicions = sum(one.count for one in found if not one.certain)
    return f"found so far: {phrases.tally(leaks, suspicions, len({one.fingerprint for one in found}))}"


def _about(snapshots: Sequence[Snapshot]) -> str:
    if not snapshots:
        return "no process"
    at = f"as of {max(snapshot.time for snapshot in snapshots):%Y-%m-%d %H:%M:%S} UTC"
    if len(snapshots) > 1:
        return f"{len(snapshots)} processes, {at}"
    (one,) = snapshots
    return f"{phrases.process_words(one.pid, one.process, one.host)}, {at}"


def notes(snapshots: Iterable[Snapshot]) -> Iterable[str]:
    """What is missing, and what went wrong."""
    for snapshot in snapshots:
        name = phrases.process_words(snapshot.pid, snapshot.process, snapshot.host)
        if snapshot.left_out:
            yield f"{name}: {phrases.plural(snapshot.left_out, 'more hold')} than a snapshot may carry"
        if snapshot.dropped_events:
            yield f"{name}: {phrases.plural(snapshot.dropped_events, 'event')} could not be told to every reporter"
        if snapshot.internal_errors:
            yield f"{name}: {phrases.plural(snapshot.internal_errors, 'internal error')} of leakguard, please report"


# ---------------------------------------------------------------------------------------------------------------- bugs


def bug(group: Group, room: int = LIMIT) -> Bug:
    """The place of a group, with as many of its holds as there is room for."""
    now = [one for _, one in group.holds]
    newest = now[-1] if now else None
    site, hold = group.site, newest.hold if newest is not None else None
    kinds: list[Kind] = [kind for kind in KINDS if group.counts[kind]]
    suspected = [kind for kind in KINDS if any(kind in one.suspected for one in now)]
    worst = next(iter((*kinds, *suspected)), None)
    held = (("held now", len(now)),) if now else ()
    fix, cure = _cure(now, worst)
    stack = hold.stack if hold is not None else ()
    times = [one.hold.acquired_at for one in now] + [found.time for found in [group.latest] if found is not None]
    return Bug(
        fingerprint=group.fingerprint,
        verdict=group.verdict,
        standing=None,
        standing_why="",
        counts=(*held, *((str(kind), group.counts[kind]) for kind in kinds)),
        place=facts.place(site, stack),
        function=site.function if site is not None else "",
        code=site.code or "" if site is not None else "",
        how=facts.how(hold) if hold is not None else "",
        excerpt=facts.excerpt(site, hold.operation if hold is not None else ""),
        stack=stack,
        why="",
        fix=fix,
        cure=cure,
        facts=facts.facts(
            ("pools", sorted({one.hold.pool for one in now if one.hold.pool is not None})),
            ("processes", [phrases.process_words(one.pid, one.process, one.host) for one in _processes(group)]),
            ("held for", [f"{duration(max(one.hold.held_for for one in now))} at most"] if now else []),
            ("found", [f"{group.latest.time:%Y-%m-%d %H:%M:%S} UTC"] if group.latest is not None else []),
        ),
        longest=max((one.hold.held_for for one in now), default=0.0),
        last=max(times, default=None),
        holds=tuple(row(snapshot, one) for snapshot, one in group.holds[:room]),
        left_out=max(len(now) - room, 0),
    )


def _processes(group: Group) -> list[Snapshot]:
    return list({(snapshot.host, snapshot.pid): snapshot for snapshot, _ in group.holds}.values())


def _cure(held: Sequence[HoldNow], worst: Kind | None) -> tuple[str, tuple[str, ...]]:
    """What to do in a sentence, and what to write instead: from the source if it was read, else the general advice."""
    for one in reversed(held):
        if one.cure:
            sentence, *code = one.cure.splitlines()
            return sentence, tuple(code)
    if worst is None or not held:
        return "", ()
    hold = held[-1].hold
    return advice_for(worst, hold.library, is_async=hold.owner.task is not None), ()


def row(snapshot: Snapshot, one: HoldNow) -> Hold:
    """One hold, and what is known of it."""
    what = [*one.suspected, *(["leak"] if one.proven else []), *(["allowed"] if one.allowed is not None else [])]
    more: tuple[Fact, ...] = facts.facts(("allowed", [one.allowed]))
    return facts.hold(
        one.hold, one.now, snapshot.time, what=tuple(what) or ("held",), more=more, kept_by=one.kept_by or ()
    )


# ---------------------------------------------------------------------------------------------------------- time lines


def by_pool(snapshot: Snapshot) -> Iterable[tuple[str | None, PoolNow | None, list[HoldNow]]]:
    """Each pool with its name and what is held of it; null are the direct connections."""
    held: defaultdict[str | None, list[HoldNow]] = defaultdict(list)
    for one in snapshot.holds:
        held[one.hold.pool].append(one)
    pools = {pool.name: pool for pool in snapshot.pools}
    for name in dict.fromkeys([*pools, *held]):
        yield name, pools.get(name) if name is not None else None, held[name]


def _tracks(snapshot: Snapshot) -> Iterable[Track]:
    return (_track(snapshot, *found) for found in by_pool(snapshot))


def _track(snapshot: Snapshot, name: str | None, pool: PoolNow | None, held: Sequence[HoldNow]) -> Track:
    start = min((one.hold.acquired_at for one in held), default=snapshot.started_at)
    return Track(
        name=name if name is not None else facts.DIRECT,
        process=phrases.process_words(snapshot.pid, snapshot.process, snapshot.host),
        capacity=pool.capacity if pool is not None else None,
        start=min(start, snapshot.time - timedelta(milliseconds=1)),
        end=snapshot.time,
        spans=tuple(
            Span(
                fingerprint=one.fingerprint,
                start=one.hold.acquired_at,
                seen=snapshot.time,
                until=snapshot.time,
                fate="unknown",
            )
            for one in held[:LIMIT]
        ),
        left_out=max(len(held) - LIMIT, 0),
        samples=(sample(snapshot, pool, held),),
        facts=pool_facts(pool) if pool is not None else (),
        places=(),
    )


def sample(snapshot: Snapshot, pool: PoolNow | None, held: Sequence[HoldNow]) -> Sample:
    """The exact count of a pool, or of the direct connections."""
    counts = Counter(one.fingerprint for one in held)
    return Sample(
        time=snapshot.time,
        refused=0,
        held=pool.held if pool is not None else len(held),
        lost=pool.lost if pool is not None else 0,
        capacity=pool.capacity if pool is not None else None,
        error=pool.error or "" if pool is not None else "",
        holders=tuple(counts.items()),
    )


def pool_facts(pool: PoolNow) -> tuple[Fact, ...]:
    """How full the pool is, and where it was made."""
    usage = [f"{pool.held} held", f"{len(pool.idle)} idle", f"{pool.open} open"]
    if pool.lost:
        usage.append(f"{phrases.plural(pool.lost, 'slot')} lost for good")
    if pool.pending:
        usage.append(f"{phrases.plural(pool.pending, 'acquire')} waiting")
    if pool.timeouts:
        usage.append(f"{phrases.plural(pool.timeouts, 'acquire')} timed out so far")
    created = phrases.frame_words(pool.created_at) if pool.created_at is not None else None
    return facts.facts(
        ("now", [", ".join(usage)]),
        ("library", [pool.library]),
        ("created at", [created]),
        ("server says", [pool.error]),
    )


def _fullness(track: Track) -> float:
    (sample,) = track.samples
    return (sample.held + sample.lost) / track.capacity if track.capacity else 0.0


def process(snapshot: Snapshot) -> Process:
    """The process, its counts and settings."""
    counts = f"{snapshot.acquired} acquired, {snapshot.released} released, {snapshot.held} held"
    if snapshot.leaked:
        counts += f", {snapshot.leaked} garbage-collected"
    return Process(
        name=phrases.process_words(snapshot.pid, snapshot.process, snapshot.host),
        trouble=bool(snapshot.internal_errors),
        lines=(counts,),
        facts=facts.facts(
            ("started", [f"{snapshot.started_at:%Y-%m-%d %H:%M:%S} UTC"]),
            ("python", [snapshot.python]),
            ("leakguard", [snapshot.version]),
            ("settings", [f"{name} = {value}" for name, value in snapshot.settings.items()]),
        ),
    )
