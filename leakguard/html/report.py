"""The page of a number of event files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Final, TypeAlias

from leakguard.cures import Cure
from leakguard.evidence import Evidence, Group, Span, words
from leakguard.html import facts, live
from leakguard.html.page import LIMIT, VERDICTS, Bug, Excerpt, Fact, Hold, Page, Process
from leakguard.html.source import Source
from leakguard.html.timeline import SAME_HOLD, Timeline
from leakguard.known import Known
from leakguard.model import Event, Frame, Leak, Recovered, Snapshot
from leakguard.prose import layout, phrases
from leakguard.reporters.jsonl import UNKNOWN_TIME

_CAPTION: Final = (
    "Drawn from the events alone, which tell of the holds that leakguard reported, not of all: the true number was "
    "this or more. A bar with a cross is an exact count of the whole pool, made when an acquire found nothing left."
)

_Key: TypeAlias = tuple[str, int, int]  # host, pid, and number of the hold


class EventPage:
    """Collects what the page shows beside the evidence: single holds, and the time lines of pools."""

    def __init__(self, source: Source | None = None) -> None:
        self._timeline = Timeline()
        self._source = source
        self._holds: defaultdict[str, dict[_Key | int, Hold]] = defaultdict(dict)
        self._count = 0
        self._left_out: Counter[str] = Counter()
        self._stacks: dict[tuple[Frame, ...], tuple[Frame, ...]] = {}

    def observe(self, event: Event | Snapshot) -> None:
        """Take one event, or the snapshot of an incident, into account, after the evidence has done so."""
        self._timeline.observe(event)
        match event:
            case Leak() if event.hold is not None:
                owner = event.hold.owner
                row = facts.hold(event.hold, event.now, event.time, what=(event.kind,), more=_more(event))
                self._enter(event.fingerprint, (owner.host, owner.pid, event.hold.id), row)
            case Leak():
                self._enter(event.fingerprint, self._count, _row_of_pool(event))
            case Recovered():
                owner = event.hold.owner
                back = facts.facts(("came back", [f"{event.time:%Y-%m-%d %H:%M:%S} UTC"]))
                row = facts.hold(event.hold, facts.NOWHERE, event.time, what=(event.kind, "came back"), more=back)
                self._enter(event.fingerprint, (owner.host, owner.pid, event.hold.id), row)
            case Snapshot():
                for one in event.holds:
                    self._enter(one.fingerprint, (event.host, event.pid, one.hold.id), live.row(event, one))
            case _:
                pass

    def _enter(self, fingerprint: str, key: _Key | int, row: Hold) -> None:
        rows = self._holds[fingerprint]
        before = rows.get(key)
        if before is not None and not _is_same(before, row):
            before, key = None, self._count
        if before is not None:
            row = _merged(before, row)
        elif self._count >= LIMIT:
            self._left_out[fingerprint] += 1
            return
        else:
            self._count += 1
        rows[key] = replace(row, stack=self._stacks.setdefault(row.stack, row.stack))

    def page(self, evidence: Evidence, known: Known | None, made_at: datetime) -> Page:
        """The page, once everything has been read."""
        covered = known.covered(evidence) if known is not None else frozenset()
        bugs = [self._bug(group, evidence, known) for group in evidence.ordered(covered)]
        bugs += [
            self._held(group, known)
            for group in live.groups(_counted_once(evidence.snapshots))
            if group.fingerprint not in evidence.groups
        ]
        return Page(
            live=False,
            made_at=made_at,
            headline=_headline(evidence, len(covered) if known is not None else None),
            about=_about(evidence),
            caption=_CAPTION,
            notes=(*evidence.skipped.lines(), *live.notes(evidence.snapshots)),
            tracks=self._timeline.tracks(),
            bugs=tuple(sorted(bugs, key=lambda bug: (bug.standing == "known", VERDICTS.index(bug.verdict)))),
            processes=tuple(_processes(evidence)),
        )

    def _held(self, group: live.Group, known: Known | None) -> Bug:
        """A place of which only snapshots tell: it is held there, and perhaps nothing is wrong with it."""
        rows = self._rows(group.fingerprint)
        shown = live.bug(group, 0)
        standing, why = None, ""
        if known is not None and group.verdict != "held":
            standing, why = known.standing(group.fingerprint, group.counts)
        counts = [count for count in shown.counts if count[0] in group.counts]
        return replace(
            shown,
            standing=standing,
            standing_why=why,
            counts=(*([("held", len(rows))] if rows else []), *counts),
            holds=rows,
            left_out=self._left_out[group.fingerprint],
        )

    def _rows(self, fingerprint: str) -> tuple[Hold, ...]:
        return tuple(sorted(self._holds[fingerprint].values(), key=lambda row: row.since or UNKNOWN_TIME))

    def _bug(self, group: Group, evidence: Evidence, known: Known | None) -> Bug:
        newest = group.newest
        site, hold = newest.site, newest.hold
        cure = self._cure(newest)
        standing, why = known.standing(group.fingerprint, group.counts) if known is not None else (None, "")
        stack = hold.stack if hold is not None else ()
        return Bug(
            fingerprint=group.fingerprint,
            verdict=group.verdict,
            standing=standing,
            standing_why=why,
            counts=tuple(group.counts.items()),
            place=facts.place(site, stack),
            function=site.function if site is not None else "",
            code=site.code or "" if site is not None else "",
            how=facts.how(hold),
            excerpt=self._excerpt(newest),
            stack=stack,
            why=newest.reason,
            fix=cure.sentence if cure is not None else newest.advice,
            cure=tuple(cure.after.splitlines()) if cure is not None else (),
            facts=facts.facts(
                ("owners", words.owners(group)),
                ("pools", words.pools(group)),
                ("seen", [", ".join(words.seen(group))]),
                ("held for", words.held_for(group)),
                ("recovered", words.recovered(evidence.recoveries.get(group.fingerprint))),
                ("healed", words.healed(group)),
            ),
            longest=group.longest or 0.0,
            last=group.span.last,
            holds=self._rows(group.fingerprint),
            left_out=self._left_out[group.fingerprint],
        )

    def _cure(self, leak: Leak) -> Cure | None:
        if leak.site is None or self._source is None or not self._source.covers(leak.site.file):
            return None
        return layout.cure_of(leak)

    def _excerpt(self, leak: Leak) -> Excerpt | None:
        shown = facts.excerpt(leak.site, leak.hold.operation if leak.hold is not None else "")
        if shown is None or leak.site is None or self._source is None:
            return shown
        return self._source.around(leak.site.file, shown)


def _more(leak: Leak) -> tuple[Fact, ...]:
    pool = facts.pool_words(leak.pool) if leak.pool is not None else ()
    return (*pool, *facts.facts(("found", [f"{leak.time:%Y-%m-%d %H:%M:%S} UTC"]), ("why", [leak.reason])))


def _row_of_pool(leak: Leak) -> Hold:
    return Hold(
        what=(leak.kind,),
        since=leak.time if leak.time != UNKNOWN_TIME else None,
        held_for=None,
        owner=phrases.pool_words(leak.pool.name, leak.pool.library) if leak.pool is not None else "",
        state="",
        pid=None,
        facts=_more(leak),
        stack=(),
        now=(),
        kept_by=(),
    )


def _is_same(before: Hold, row: Hold) -> bool:
    """Whether two tellings are of one hold: where a process id comes again, its numbers begin anew."""
    return before.since is None or row.since is None or abs(before.since - row.since) < SAME_HOLD


def _merged(before: Hold, row: Hold) -> Hold:
    """Two tellings of one hold: the later moment tells most, but all that was found of it counts."""
    later, earlier = (row, before) if (row.held_for or 0.0) >= (before.held_for or 0.0) else (before, row)
    return replace(
        later,
        what=tuple(dict.fromkeys((*before.what, *row.what))),
        now=later.now or earlier.now,
        kept_by=later.kept_by or earlier.kept_by,
    )


def _about(evidence: Evidence) -> str:
    seen = Span()
    spans = [group.span for group in evidence.groups.values()]
    spans += [shortage.span for shortage in evidence.shortages.values()]
    for moment in [moment for span in spans for moment in (span.first, span.last) if moment is not None]:
        seen.add(moment)
    for snapshot in evidence.snapshots:
        seen.add(snapshot.time)
    return ", ".join([phrases.plural(evidence.files, "file"), *words.span(seen)])


def _headline(evidence: Evidence, known: int | None) -> str:
    snapshots = evidence.snapshots
    if not snapshots:
        return words.headline(evidence, known)
    held = phrases.plural(sum(snapshot.held for snapshot in snapshots), "connection")
    told = f"{held} held in {phrases.plural(len(snapshots), 'snapshot')}"
    if evidence.groups:
        return f"{words.headline(evidence, known)}; {told}"
    refused = sum(int(shortage.total) for shortage in evidence.shortages.values())
    times = f"; no connection left {phrases.plural(refused, 'time')}" if refused else ""
    return f"{told}; {live.found_words(_counted_once(snapshots))}{times}"


def _counted_once(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """The snapshots, with the leaks of each process in its latest one only: they are running totals."""
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.time)
    latest = {(snapshot.host, snapshot.pid): snapshot for snapshot in ordered}.values()
    return [snapshot if any(snapshot is one for one in latest) else replace(snapshot, leaks=()) for snapshot in ordered]


def _processes(evidence: Evidence) -> Iterable[Process]:
    for record in evidence.processes.values():
        yield Process(
            name=phrases.process_words(record.pid, record.process, record.host),
            trouble=not evidence.ended(record) or record.adds_up is False,
            lines=tuple(words.process(evidence, record)) or ("no leak",),
            facts=(),
        )
    told = {(snapshot.host, snapshot.pid): snapshot for snapshot in evidence.snapshots}
    yield from (live.process(snapshot) for key, snapshot in told.items() if key not in evidence.processes)
