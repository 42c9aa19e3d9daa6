"""What a number of event files add up to: `leakguard report` reads them back with this, whatever form it then prints.

Leaks are grouped by fingerprint over all files and processes, the worst first. An event's ``count`` is a running total
of its process, so the highest one counts, and the processes are added up.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, Literal, TypeAlias, cast, get_args

from leakguard.model import KINDS, Event, Exhausted, Json, Kind, Leak, Owner, PoolInfo, Recovered, Snapshot, Summary
from leakguard.prose import holders, phrases
from leakguard.reporters.jsonl import UNKNOWN_TIME, DamagedError, UnknownEventError, UnknownSchemaError, decode

_LINE_LIMIT: Final = 8 * 1024 * 1024  # bytes; the snapshot of an incident has six millions at most
_OWNERS_KEPT: Final = 100  # of one group: a task a request makes owners without end
_POOLS_KEPT: Final = 20
_SNAPSHOTS_KEPT: Final = 20
_NAMES_KEPT: Final = 20  # unknown schemas and events: a foreign file may have one a line

Verdict: TypeAlias = Literal["leak", "suspect", "advice"]

_Process: TypeAlias = tuple[str, int]  # host and pid


class RunningTotal:
    """Adds up an event's ``count``: a running total, which begins at 1 and only grows.

    Several may run by turns: processes that share a file and cannot be told apart (a leak of a pool has no owner), a
    process id that was used again, two guards in one process. So a count continues the highest total below it, and a
    1 begins a new one.
    """

    __slots__ = ("_latest", "_totals")

    def __init__(self) -> None:
        self._totals: list[int] = []  # ascending
        self._latest = UNKNOWN_TIME

    def add(self, count: int, time: datetime) -> None:
        """Take one event into account. One that is read twice, or out of order, changes nothing."""
        at = bisect_left(self._totals, count) - 1
        if at >= 0:
            self._totals[at] = count
        elif not self._totals or (count <= 1 and time > self._latest):
            self._totals.insert(0, max(count, 1))
        self._latest = max(self._latest, time)

    def __int__(self) -> int:
        return sum(self._totals)


@dataclass(slots=True)
class Span:
    """When something was seen first and last. Unknown times are left out."""

    first: datetime | None = None
    last: datetime | None = None

    def add(self, time: datetime) -> None:
        """Widen it to hold `time`."""
        if time != UNKNOWN_TIME:
            self.first = min(self.first or time, time)
            self.last = max(self.last or time, time)

    def to_dict(self) -> dict[str, Json]:
        """Its two keys of the JSON form."""
        return {
            "first_seen": self.first.isoformat() if self.first else None,
            "last_seen": self.last.isoformat() if self.last else None,
        }


@dataclass(slots=True)
class Recoveries:
    """How often holds of one fingerprint came back after all, and after how many seconds at most."""

    count: int = 0
    longest: float = 0.0


_OwnerKey: TypeAlias = tuple[str | None, str | None, str | None, tuple[tuple[str, str], ...]]


@dataclass(slots=True)
class Group:
    """What is known of one bug."""

    fingerprint: str
    newest: Leak
    """The newest event of the worst kind: it speaks for the group."""
    totals: dict[Kind, dict[_Process | int, RunningTotal]] = field(default_factory=dict)
    certain: set[Kind] = field(default_factory=set)
    span: Span = field(default_factory=Span)
    longest: float | None = None
    healed: Counter[bool] = field(default_factory=Counter)
    libraries: set[str] = field(default_factory=set)
    owners: dict[_OwnerKey, None] = field(default_factory=dict)
    more_owners: bool = False
    pools: dict[tuple[str, str], PoolInfo] = field(default_factory=dict)

    def add(self, leak: Leak, file_number: int) -> None:
        """Take one event into account; `file_number` tells the writers apart as far as the event does not."""
        worst, rank = phrases.severity(self.newest), phrases.severity(leak)
        if rank < worst or (rank == worst and leak.time >= self.newest.time):
            self.newest = leak
        writer = _writer(leak)
        totals = self.totals.setdefault(leak.kind, {})
        total = totals.setdefault(writer if writer is not None else file_number, RunningTotal())
        total.add(leak.count, leak.time)
        if leak.certain:
            self.certain.add(leak.kind)
        self.span.add(leak.time)
        if leak.kind == "dropped":
            self.healed[leak.healed] += 1
        if leak.pool is not None:
            self._add_pool(leak.pool)
        if leak.hold is not None:
            self.libraries.add(leak.hold.library)
            self.longest = max(self.longest or 0.0, leak.hold.held_for)
            self._add_owner(leak.hold.owner)

    def _add_pool(self, pool: PoolInfo) -> None:
        key = pool.name, pool.library
        self.libraries.add(pool.library)
        if key in self.pools or len(self.pools) < _POOLS_KEPT:
            self.pools[key] = pool

    def _add_owner(self, owner: Owner) -> None:
        key = owner.test, owner.task, owner.thread, tuple(sorted(owner.labels.items()))
        if key in self.owners or len(self.owners) < _OWNERS_KEPT:
            self.owners[key] = None
        else:
            self.more_owners = True

    @property
    def counts(self) -> dict[Kind, int]:
        """The exact count of each kind, worst first."""
        kinds = sorted(self.totals, key=lambda kind: (kind not in self.certain, KINDS.index(kind)))
        return {kind: sum(map(int, self.totals[kind].values())) for kind in kinds}

    @property
    def verdict(self) -> Verdict:
        """That of its worst kind."""
        return cast("Verdict", phrases.verdict_of(self.newest).lower())

    @property
    def processes(self) -> int:
        """How many processes are known to have found it."""
        return len({writer for totals in self.totals.values() for writer in totals if not isinstance(writer, int)})

    def order(self) -> tuple[int, int, str]:
        """The worst first: proven before suspected before advice, then the most frequent."""
        return get_args(Verdict).index(self.verdict), -sum(self.counts.values()), self.fingerprint


@dataclass(slots=True)
class Shortage:
    """The exhausted events of one pool or limit in one process."""

    newest: Exhausted
    total: RunningTotal = field(default_factory=RunningTotal)
    span: Span = field(default_factory=Span)

    def add(self, event: Exhausted) -> None:
        """Take one event into account."""
        self.total.add(event.count, event.time)
        self.span.add(event.time)
        if event.time >= self.newest.time:
            self.newest = event


@dataclass(slots=True)
class ProcessRecord:
    """What one process has said about itself. `open`: it has written events since its last summary."""

    pid: int
    host: str
    process: str = ""
    open: bool = False
    summaries: list[Summary] = field(default_factory=list)
    adds_up: bool | None = None


@dataclass(slots=True)
class Skipped:
    """The lines that were not counted, and why."""

    damaged: dict[Path, tuple[int, int, str]] = field(default_factory=dict)
    """Each file's number of damaged lines, and the first one with what was wrong with it."""
    schemas: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)

    def add(self, file: Path, number: int, error: ValueError) -> None:
        """Count the line `number` of `file`, which `error` says could not be used."""
        match error:
            case UnknownSchemaError():
                _count(self.schemas, str(error))
            case UnknownEventError():
                _count(self.events, str(error))
            case _:
                lines, first, reason = self.damaged.get(file, (0, number, str(error)))
                self.damaged[file] = lines + 1, first, reason

    def lines(self) -> Iterator[str]:
        """What to tell the user."""
        for file, (lines, first, reason) in self.damaged.items():
            count = f"{phrases.plural(lines, 'line')} that no leakguard wrote"
            yield f"{phrases.shown(str(file))}: skipped {count}, the first is line {first}: {phrases.shown(reason)}"
        for schema, lines in self.schemas.items():
            count = phrases.plural(lines, "event")
            yield f"skipped {count} of schema {phrases.shown(schema)}; this version knows schema 1"
        for name, lines in self.events.items():
            count = phrases.plural(lines, "event")
            yield f"skipped {count} named {phrases.shown(name)}, which this version does not know"

    def to_dict(self) -> dict[str, Json]:
        """The JSON form."""
        return {
            "damaged": [
                {"file": str(file), "lines": lines, "first_line": first, "reason": reason}
                for file, (lines, first, reason) in self.damaged.items()
            ],
            "schemas": dict(self.schemas),
            "events": dict(self.events),
        }


class Evidence:
    """What a number of files say, in memory proportional to the bugs and processes in them, not to their lines.

    `observe` sees every event and snapshot too, in the order of the files.
    """

    def __init__(self, observe: Callable[[Event | Snapshot], None] | None = None) -> None:
        self.groups: dict[str, Group] = {}
        self.recoveries: dict[str, Recoveries] = {}
        self.shortages: dict[tuple[str, str | None, int], Shortage] = {}
        self.processes: dict[_Process, ProcessRecord] = {}
        self.skipped = Skipped()
        self.snapshots: deque[Snapshot] = deque(maxlen=_SNAPSHOTS_KEPT)  # of incident files, or of `dump`
        self.files = 0
        self._observe = observe

    def read(self, file: Path, stream: BinaryIO) -> None:
        """Take one file into account. Raises OSError only."""
        self.files += 1
        for number, line in _numbered(stream):
            if not line.strip():
                continue
            try:
                if len(line) >= _LINE_LIMIT:
                    raise DamagedError("longer than any event")
                event, data = decode(line)
            except ValueError as error:
                self.skipped.add(file, number, error)
                continue
            if isinstance(event, Snapshot):
                self.snapshots.append(event)
            else:
                self._add(event, data)
            if self._observe is not None:
                self._observe(event)

    def _add(self, event: Event, data: Mapping[str, object]) -> None:
        match event:
            case Leak():
                group = self.groups.get(event.fingerprint)
                if group is None:
                    group = self.groups[event.fingerprint] = Group(event.fingerprint, event)
                group.add(event, self.files)
                if event.hold is not None:
                    self._alive(event.hold.owner.host, event.hold.owner.pid, event.hold.owner.process)
            case Recovered():
                recoveries = self.recoveries.setdefault(event.fingerprint, Recoveries())
                recoveries.count += 1
                recoveries.longest = max(recoveries.longest, event.held_for)
            case Exhausted():
                key = event.cause, event.pool, event.pid
                self.shortages.setdefault(key, Shortage(event)).add(event)
            case Summary():
                record = self._process(event.host, event.pid, event.process)
                record.open = False
                record.summaries.append(event)
                if "leaked" in data:  # a key that section 5 of the contract does not promise
                    balance = event.acquired == event.released + event.held + event.leaked
                    record.adds_up = balance and record.adds_up is not False

    def _alive(self, host: str, pid: int, process: str) -> None:
        self._process(host, pid, process).open = True

    def _process(self, host: str, pid: int, process: str) -> ProcessRecord:
        record = self.processes.setdefault((host, pid), ProcessRecord(pid, host))
        record.process = process or record.process
        return record

    def ended(self, record: ProcessRecord) -> bool:
        """Whether the process has written a summary after everything else."""
        # A writer that keeps to section 5 gives a summary a pid, but no host.
        anonymous = self.processes.get(("", record.pid))
        return not record.open or (anonymous is not None and bool(anonymous.summaries))

    def ordered(self, expected: Container[str] = ()) -> list[Group]:
        """The groups, worst first; those with an `expected` fingerprint after all others."""
        return sorted(self.groups.values(), key=lambda group: (group.fingerprint in expected, group.order()))

    def tally(self) -> Counter[str]:
        """How many leaks, suspicions and pieces of advice there are, by verdict."""
        found: Counter[str] = Counter()
        for group in self.groups.values():
            for kind, count in group.counts.items():
                found["leak" if kind in group.certain else "advice" if kind == "nested_acquire" else "suspect"] += count
        return found

    def has_problems(self, expected: Container[str] = ()) -> bool:
        """Whether there is anything that somebody has to look at, beside the groups with an `expected` fingerprint."""
        told: Counter[str] = Counter()
        for group in self.groups.values():
            told.update(group.counts)
            if group.verdict != "advice" and group.fingerprint not in expected:
                return True
        summarised: Counter[str] = Counter()
        for record in self.processes.values():
            for summary in record.summaries:
                summarised.update(summary.leaks)
        missing = any(count > told[kind] for kind, count in summarised.items() if kind != "nested_acquire")
        return bool(self.shortages) or missing or not all(map(holders.is_clean, self.snapshots))


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines and their numbers. Of an endless one only the beginning is kept in memory."""
    number = 0
    while line := stream.readline(_LINE_LIMIT):
        number += 1
        rest = line
        while len(rest) == _LINE_LIMIT and not rest.endswith(b"\n"):
            rest = stream.readline(_LINE_LIMIT)
        yield number, line


def _writer(leak: Leak) -> _Process | None:
    return (leak.hold.owner.host, leak.hold.owner.pid) if leak.hold is not None else None


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < _NAMES_KEPT else "(others)"] += 1
