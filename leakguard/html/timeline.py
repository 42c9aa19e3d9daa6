"""The time lines of pools, as far as events tell.

An event speaks of one hold: when it was acquired, and that it was still held, or gone, when the event was written. An
`exhausted` event counts a whole pool, and the snapshot of an incident names all that it holds, but for one moment only.
All of that is drawn; in between nobody knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, TypeAlias

from leakguard.html import live
from leakguard.html.facts import DIRECT, pool_words
from leakguard.html.page import LIMIT, Fate, Sample, Span, Track
from leakguard.model import Event, Exhausted, Hold, Leak, PoolInfo, PoolNow, Recovered, Snapshot, Summary
from leakguard.prose import phrases
from leakguard.reporters.jsonl import UNKNOWN_TIME

_Process: TypeAlias = tuple[str, int]  # host and pid
_Pool: TypeAlias = tuple[_Process, str | None]

SAME_HOLD: Final = timedelta(seconds=1)
"""One hold's events tell its beginning alike, up to a clock that is set. A process id that is used again does not."""


@dataclass(slots=True)
class _Held:
    fingerprint: str
    start: datetime
    seen: datetime
    fate: Fate = "unknown"


class Timeline:
    """Collects what the events say, to be told as tracks. Bounded by the page's limit of spans."""

    def __init__(self) -> None:
        self._held: dict[tuple[_Process, int], _Held] = {}
        self._spans: defaultdict[_Pool, list[_Held]] = defaultdict(list)
        self._left_out: defaultdict[_Pool, int] = defaultdict(int)
        self._count = 0
        self._pools: dict[_Pool, PoolInfo] = {}
        self._refusals: defaultdict[tuple[int, str | None], list[Exhausted]] = defaultdict(list)
        self._samples: defaultdict[_Pool, list[Sample]] = defaultdict(list)
        self._pools_now: dict[_Pool, PoolNow] = {}
        self._ends: defaultdict[_Process, list[datetime]] = defaultdict(list)
        self._latest: dict[_Process, datetime] = {}
        self._names: dict[_Process, str] = {}

    def observe(self, event: Event | Snapshot) -> None:
        """Take one event, or the snapshot of an incident, into account."""
        match event:
            case Leak() if event.hold is not None:
                self._leak(event, event.hold)
            case Recovered():
                held = self._enter(event.hold, event.fingerprint)
                if held is not None:
                    held.seen, held.fate = held.start + timedelta(seconds=event.held_for), "ended"
                self._alive(event.hold, event.time)
            case Exhausted() if event.time != UNKNOWN_TIME:
                self._refusals[event.pid, event.pool].append(event)
            case Summary() if event.time != UNKNOWN_TIME:
                self._ends[event.host, event.pid].append(event.time)
                self._names.setdefault((event.host, event.pid), event.process)
            case Snapshot():
                self._snapshot(event)
            case _:
                pass

    def _snapshot(self, snapshot: Snapshot) -> None:
        process = snapshot.host, snapshot.pid
        self._names[process] = snapshot.process
        self._latest[process] = max(snapshot.time, self._latest.get(process, snapshot.time))
        for name, pool, holds in live.by_pool(snapshot):
            self._samples[process, name].append(live.sample(snapshot, pool, holds))
            if pool is not None:
                self._pools_now[process, name] = pool
            for one in holds:
                held = self._enter(one.hold, one.fingerprint)
                if held is not None:
                    held.seen = max(held.seen, snapshot.time)

    def _leak(self, leak: Leak, hold: Hold) -> None:
        self._alive(hold, leak.time)
        if leak.pool is not None:
            self._pools[_pool_of(hold)] = leak.pool
        if leak.kind == "nested_acquire":  # an attempt: whether it came to a hold is not told
            return
        held = self._enter(hold, leak.fingerprint)
        if held is None:
            return
        held.seen = max(held.seen, hold.acquired_at + timedelta(seconds=hold.held_for))
        if leak.kind == "dropped":
            # With SQLAlchemy, what the library does not take back had been detached: the pool has its slot.
            slot_lost = hold.pool is not None and not leak.healed and hold.library != "sqlalchemy"
            held.fate = "lost" if slot_lost else "ended"

    def _alive(self, hold: Hold, time: datetime) -> None:
        process = hold.owner.host, hold.owner.pid
        self._latest[process] = max(time, self._latest.get(process, time))
        self._names[process] = hold.owner.process

    def _enter(self, hold: Hold, fingerprint: str) -> _Held | None:
        """What is known of the hold so far; None where its beginning is not told, or where there are too many."""
        if hold.acquired_at == UNKNOWN_TIME:
            return None
        process = hold.owner.host, hold.owner.pid
        held = self._held.get((process, hold.id))
        if held is not None and abs(held.start - hold.acquired_at) < SAME_HOLD:
            return held
        if self._count >= LIMIT:
            self._left_out[_pool_of(hold)] += 1
            return None
        self._count += 1
        held = self._held[process, hold.id] = _Held(fingerprint, hold.acquired_at, hold.acquired_at)
        self._spans[_pool_of(hold)].append(held)
        return held

    def tracks(self) -> tuple[Track, ...]:
        """One for each pool of each process, those first that had no connection left, then those with most holds."""
        refusals: defaultdict[_Pool, list[Exhausted]] = defaultdict(list)
        for (pid, pool), events in self._refusals.items():
            refusals[self._process(pid), pool] += events
        tracks = [self._track(key, refusals[key]) for key in {**self._spans, **refusals, **self._samples}]
        return tuple(sorted(tracks, key=lambda track: (-track.refused, -len(track.spans), track.name)))

    def _process(self, pid: int) -> _Process:
        """The process of an event that tells no host, where only one can be meant."""
        known = {process for process in self._names if process[1] == pid}
        return known.pop() if len(known) == 1 else ("", pid)

    def _track(self, key: _Pool, refusals: list[Exhausted]) -> Track:
        process, pool = key
        refusals = sorted(refusals, key=lambda event: event.time)
        held = _with_oldest(self._spans[key], refusals)
        samples = sorted([*map(_sample, refusals), *self._samples[key]], key=lambda sample: sample.time)
        ends = [one.seen for one in held] + [sample.time for sample in samples] + self._ends[process]
        end = max([*ends, *([self._latest[process]] if process in self._latest else [])])
        start = min([one.start for one in held] + [sample.time for sample in samples])
        info, now = self._pools.get(key), self._pools_now.get(key)
        capacity = info.capacity if info is not None else None
        for limit in [event.capacity for event in refusals if event.cause == "pool"] + ([now.capacity] if now else []):
            capacity = limit
        host, pid = process
        return Track(
            name=pool if pool is not None else DIRECT,
            process=phrases.process_words(pid, self._names.get(process, ""), host),
            capacity=capacity,
            start=start,
            end=max(end, start + timedelta(milliseconds=1)),
            spans=tuple(_span(one, self._ends[process], end) for one in sorted(held, key=lambda one: one.start)),
            left_out=self._left_out[key],
            samples=tuple(samples),
            facts=live.pool_facts(now) if now is not None else pool_words(info) if info is not None else (),
            places=_places(refusals),
        )


def _pool_of(hold: Hold) -> _Pool:
    return (hold.owner.host, hold.owner.pid), hold.pool


def _span(held: _Held, ends: Iterable[datetime], end: datetime) -> Span:
    # A process id may come again: what nobody gave back ended with the process that held it.
    until = min((moment for moment in ends if moment >= held.seen), default=end)
    return Span(
        fingerprint=held.fingerprint,
        start=held.start,
        seen=held.seen,
        until=held.seen if held.fate == "ended" else max(until, held.seen),
        fate=held.fate,
    )


def _with_oldest(spans: Sequence[_Held], refusals: Iterable[Exhausted]) -> list[_Held]:
    """The spans, and what an exhausted pool tells beside its counts: since when each place has held its oldest."""
    held = list(spans)
    for event in refusals:
        for group in event.holders:
            start = event.time - timedelta(seconds=group.oldest)
            same = [one for one in held if one.fingerprint == group.fingerprint and abs(one.start - start) < SAME_HOLD]
            if same:
                same[0].seen = max(same[0].seen, event.time)
            elif len(held) < LIMIT:
                held.append(_Held(group.fingerprint, start, event.time, "ended"))
    return held


def _sample(event: Exhausted) -> Sample:
    counts: defaultdict[str, int] = defaultdict(int)
    for group in event.holders:
        counts[group.fingerprint] += group.count
    return Sample(
        time=event.time,
        refused=event.count,
        held=event.held,
        lost=event.lost,
        capacity=event.capacity,
        error=event.error,
        holders=tuple(counts.items()),
    )


def _places(refusals: Iterable[Exhausted]) -> tuple[tuple[str, str], ...]:
    found = {group.fingerprint: phrases.place(group.site) for event in refusals for group in event.holders}
    return tuple(found.items())
