"""``leakguard report FILE...``: reads the events of section 5 of the contract back and says what they add up to.

Leaks are grouped by fingerprint over all files and processes, the worst first. An event's ``count`` is a running total
of its process, so the highest one counts, and the processes are added up.

The JSON form is one object::

    {"schema": 1,
     "groups": [{"fingerprint": "...", "verdict": "leak|suspect|advice", "count": 7, "kinds": {"dropped": 7},
                 "site": {...}, "stack": [...], "libraries": [...], "pools": [{...}], "owners": [{...}],
                 "more_owners": false, "processes": 2, "first_seen": "...", "last_seen": "...", "longest_held": 1.5,
                 "healed": {"yes": 0, "no": 7}, "recovered": {"count": 0, "longest_held": 0.0},
                 "reason": "...", "advice": "..."}],
     "exhausted": [{"cause": "pool", "pool": "...", "pid": 42, "count": 3, "first_seen": "...", "last_seen": "...",
                    "newest": {...the event...}}],
     "processes": [{"pid": 42, "host": "...", "process": "...", "ended": true, "summaries": [{...the events...}],
                    "adds_up": true}],
     "skipped": {"damaged": [{"file": "...", "lines": 1, "first_line": 3, "reason": "not JSON"}],
                 "schemas": {"2": 1}, "events": {"metric": 1}}}

``site``, ``stack``, ``reason`` and ``advice`` are those of the newest event of the group's worst kind; ``healed``
counts ``dropped`` events, not leaks. ``ended`` is false for a process that has written no summary: killed, or still
running. ``adds_up`` is null where the writer did not tell enough to judge.

Exit status: 1 if there is a leak or a suspicion, an exhausted pool or server, or a summary that counts a leak whose
event is missing; 0 otherwise, also if there is only advice (``nested_acquire``); 2 if a file cannot be read or written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, TextIO, TypeAlias

from leakguard.model import KINDS, Event, Exhausted, Json, Kind, Leak, Owner, PoolInfo, Recovered, Summary
from leakguard.reporters import text
from leakguard.reporters.jsonl import UNKNOWN_TIME, DamagedError, UnknownEventError, UnknownSchemaError, decode
from leakguard.wording import duration

_LINE_LIMIT: Final = 4 * 1024 * 1024  # bytes; a deep stack takes a few hundred thousand
_OWNERS_KEPT: Final = 100  # of one group: a task a request makes owners without end
_POOLS_KEPT: Final = 20
_NAMES_KEPT: Final = 20  # unknown schemas and events: a foreign file may have one a line
_NAMES_SHOWN: Final = 5
_PROCESSES_SHOWN: Final = 20
_VERDICTS: Final = ("leak", "suspect", "advice")

_Process: TypeAlias = tuple[str, int]  # host and pid


class _UserError(Exception):
    """Something that the user can mend; the text is the one line for standard error."""


# ------------------------------------------------------------------------------------------------------- the command


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``leakguard report``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a JSON Lines file that leakguard wrote")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="form of the report (default: text)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the report there instead of standard output")


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Returns the exit status; what is wrong with the files goes to standard error."""
    files: Sequence[Path] = arguments.files
    output: Path | None = arguments.output
    try:
        _check_output(output, files)
        evidence = read(files)
        color = output is None and text.wants_color(sys.stdout)
        body = as_json(evidence) if arguments.format == "json" else as_text(evidence, color=color)
        for line in evidence.skipped.lines():
            _complain(line)
        if output is None:
            _print(f"{body}\n", sys.stdout)
        else:
            _save(f"{body}\n", output)
    except _UserError as error:
        _complain(str(error))
        return 2
    return 1 if evidence.has_problems() else 0


def read(files: Iterable[Path]) -> Evidence:
    """Everything that the files hold, added up. Raises `_UserError` for a file that cannot be read."""
    evidence = Evidence()
    seen: set[Path] = set()
    for file in files:
        # The same file twice would count everything twice.
        if (resolved := file.resolve()) in seen:
            continue
        seen.add(resolved)
        try:
            with file.open("rb") as stream:
                evidence.read(file, stream)
        except OSError as error:
            raise _UserError(f"cannot read {text.shown(str(file))}: {error.strerror or error}") from None
    return evidence


def _check_output(output: Path | None, files: Iterable[Path]) -> None:
    if output is None:
        return
    name = text.shown(str(output))
    if output.is_dir():
        raise _UserError(f"cannot write {name}: Is a directory")
    if output.resolve() in {file.resolve() for file in files}:
        raise _UserError(f"cannot write {name}: it is one of the files to read")


def _save(body: str, output: Path) -> None:
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(body)
    except OSError as error:
        raise _UserError(f"cannot write {text.shown(str(output))}: {error.strerror or error}") from None


def _print(body: str, stream: TextIO) -> None:
    try:
        stream.write(text.encodable(body, stream))
        stream.flush()
    except BrokenPipeError:
        # `| head` has seen enough. The interpreter flushes once more at exit, which must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        raise _UserError(f"cannot write the report: {error.strerror or error}") from None


def _complain(line: str) -> None:
    _print(f"leakguard report: {line}\n", sys.stderr)


# ------------------------------------------------------------------------------------------------------ adding it up


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
        worst, rank = text.severity(self.newest), text.severity(leak)
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
    def verdict(self) -> str:
        """``leak``, ``suspect`` or ``advice``: that of its worst kind."""
        return text.verdict_of(self.newest).lower()

    @property
    def processes(self) -> int:
        """How many processes are known to have found it."""
        return len({writer for totals in self.totals.values() for writer in totals if not isinstance(writer, int)})

    def order(self) -> tuple[int, int, str]:
        """The worst first: proven before suspected before advice, then the most frequent."""
        return _VERDICTS.index(self.verdict), -sum(self.counts.values()), self.fingerprint


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
            count = f"{text.plural(lines, 'line')} that no leakguard wrote"
            yield f"{text.shown(str(file))}: skipped {count}, the first is line {first}: {text.shown(reason)}"
        for schema, lines in self.schemas.items():
            yield f"skipped {text.plural(lines, 'event')} of schema {text.shown(schema)}; this version knows schema 1"
        for name, lines in self.events.items():
            yield f"skipped {text.plural(lines, 'event')} named {text.shown(name)}, which this version does not know"

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
    """What a number of files say, in memory proportional to the bugs and processes in them, not to their lines."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.recoveries: dict[str, Recoveries] = {}
        self.shortages: dict[tuple[str, str | None, int], Shortage] = {}
        self.processes: dict[_Process, ProcessRecord] = {}
        self.skipped = Skipped()
        self._files = 0

    def read(self, file: Path, stream: BinaryIO) -> None:
        """Take one file into account. Raises OSError only."""
        self._files += 1
        for number, line in _numbered(stream):
            if not line.strip():
                continue
            try:
                if len(line) >= _LINE_LIMIT:
                    raise DamagedError("longer than any event")
                event, data = decode(line)
            except ValueError as error:
                self.skipped.add(file, number, error)
            else:
                self._add(event, data)

    def _add(self, event: Event, data: Mapping[str, object]) -> None:
        match event:
            case Leak():
                group = self.groups.get(event.fingerprint)
                if group is None:
                    group = self.groups[event.fingerprint] = Group(event.fingerprint, event)
                group.add(event, self._files)
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

    def ordered(self) -> list[Group]:
        """The groups, worst first."""
        return sorted(self.groups.values(), key=Group.order)

    def tally(self) -> Counter[str]:
        """How many leaks, suspicions and pieces of advice there are, by verdict."""
        found: Counter[str] = Counter()
        for group in self.groups.values():
            for kind, count in group.counts.items():
                found["leak" if kind in group.certain else "advice" if kind == "nested_acquire" else "suspect"] += count
        return found

    def has_problems(self) -> bool:
        """Whether there is anything that somebody has to look at."""
        found = self.tally()
        summarised = any(
            count and kind != "nested_acquire"
            for record in self.processes.values()
            for summary in record.summaries
            for kind, count in summary.leaks.items()
        )
        return bool(found["leak"] or found["suspect"] or self.shortages or summarised)


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


# ---------------------------------------------------------------------------------------------------------- as text


def as_text(evidence: Evidence, *, color: bool = False) -> str:
    """The report for people."""
    blocks = [_headline(evidence)]
    blocks += [_group_text(group, evidence.recoveries.get(group.fingerprint), color) for group in evidence.ordered()]
    blocks += [_shortage_text(shortage, color) for shortage in evidence.shortages.values()]
    blocks += _processes_text(evidence)
    return "\n\n".join(blocks)


def _headline(evidence: Evidence) -> str:
    found = evidence.tally()
    words = text.tally(found["leak"], found["suspect"], len(evidence.groups))
    if found["advice"]:
        words += f"; advice for {text.plural(found['advice'], 'nested acquire')}"
    if evidence.shortages:
        shortages = sum(int(shortage.total) for shortage in evidence.shortages.values())
        words += f"; no connection left {text.plural(shortages, 'time')}"
    return f"{words}; {_processes(len(evidence.processes))}"


def _group_text(group: Group, recoveries: Recoveries | None, color: bool) -> str:
    newest = group.newest
    kinds = ", ".join(f"{kind} x{count}" for kind, count in group.counts.items())
    fingerprint = text.shown(group.fingerprint)
    lines = [text.headline(group.verdict.upper(), kinds, fingerprint, text.place(newest.site), color=color)]
    lines += text.acquisition(newest)
    lines += text.packed("owners", _owner_words(group), text.WIDTH)
    lines += text.packed("pools", _pool_words(group), text.WIDTH)
    seen = [*_span_words(group.span), f"in {_processes(group.processes)}" if group.processes else None]
    lines += text.packed("seen", seen, text.WIDTH)
    if group.longest is not None:
        lines += text.listed("held for", [f"{duration(group.longest)} at most"])
    if recoveries is not None:
        words = f"{text.plural(recoveries.count, 'time')}, after {duration(recoveries.longest)} at most"
        lines += text.listed("recovered", [words])
    lines += text.listed("healed", _healed_words(group))
    lines += text.prose("why", newest.reason, text.WIDTH)
    lines += text.prose("fix", newest.advice, text.WIDTH)
    return "\n".join(lines)


def _owner_words(group: Group) -> list[str]:
    words = [" ".join(text.owner_words(*key)) or "unknown" for key in list(group.owners)[:_NAMES_SHOWN]]
    beyond = len(group.owners) - len(words)
    if beyond:
        words.append(f"and {beyond}{' or more' if group.more_owners else ''} others")
    return words


def _pool_words(group: Group) -> list[str]:
    pools = list(group.pools.values())
    words = [text.pool_words(pool.name, pool.library) for pool in pools[:_NAMES_SHOWN]]
    return [*words, f"and {len(pools) - len(words)} others"] if len(pools) > len(words) else words


def _span_words(span: Span) -> list[str]:
    if span.first is None or span.last is None:
        return []
    first, last = (f"{moment:%Y-%m-%d %H:%M:%S}" for moment in (span.first, span.last))
    return [f"{first} UTC" if first == last else f"{first} to {last} UTC"]


def _healed_words(group: Group) -> list[str]:
    match bool(group.healed[True]), bool(group.healed[False]):
        case True, False:
            return ["yes, the library took the connections back by itself"]
        case False, True:
            return ["no"]
        case True, True:
            return ["some, but the library did not take all of the connections back"]
        case _:
            return []


def _shortage_text(shortage: Shortage, color: bool) -> str:
    lines = [text.render_exhausted(replace(shortage.newest, count=int(shortage.total)), color=color)]
    seen = [*_span_words(shortage.span), f"pid {shortage.newest.pid}"]
    return "\n".join([*lines, *text.packed("seen", seen, text.WIDTH)])


def _processes_text(evidence: Evidence) -> list[str]:
    told = [lines for record in evidence.processes.values() if (lines := _process_text(evidence, record))]
    lines = [line for group in told[:_PROCESSES_SHOWN] for line in group]
    if len(told) > _PROCESSES_SHOWN:
        lines.append(f"  ({_processes(len(told) - _PROCESSES_SHOWN)} more)")
    if quiet := len(evidence.processes) - len(told):
        lines.append(f"  {_processes(quiet)} without a leak")
    return ["\n".join(["processes:", *lines])] if lines else []


def _process_text(evidence: Evidence, record: ProcessRecord) -> list[str]:
    """What is worth saying about a process; nothing for one in which all went well."""
    name = text.process_words(record.pid, record.process, record.host)
    lines = [
        f"  {name}: {text.summary_words(summary)}"
        for summary in record.summaries
        if any(summary.leaks.values()) or summary.internal_errors
    ]
    for summary in record.summaries if record.adds_up is False else ():
        accounted = summary.released + summary.held + summary.leaked
        if accounted != summary.acquired:
            lines.append(f"  {name}: does not add up: {summary.acquired} acquired, {accounted} accounted for")
    if not evidence.ended(record):
        lines.append(f"  {name}: ended without a summary: killed, or still running")
    return lines


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"


# ---------------------------------------------------------------------------------------------------------- as JSON


def as_json(evidence: Evidence) -> str:
    """The report for programs, as this module's docstring describes it. ASCII only, so harmless to a terminal."""
    report: dict[str, Json] = {
        "schema": 1,
        "groups": [_group_json(group, evidence.recoveries.get(group.fingerprint)) for group in evidence.ordered()],
        "exhausted": [
            {
                "cause": shortage.newest.cause,
                "pool": shortage.newest.pool,
                "pid": shortage.newest.pid,
                "count": int(shortage.total),
                **shortage.span.to_dict(),
                "newest": shortage.newest.to_dict(),
            }
            for shortage in evidence.shortages.values()
        ],
        "processes": [
            {
                "pid": record.pid,
                "host": record.host,
                "process": record.process,
                "ended": evidence.ended(record),
                "summaries": [summary.to_dict() for summary in record.summaries],
                "adds_up": record.adds_up,
            }
            for record in evidence.processes.values()
        ],
        "skipped": evidence.skipped.to_dict(),
    }
    return json.dumps(report, indent=2)


def _group_json(group: Group, recoveries: Recoveries | None) -> dict[str, Json]:
    newest = group.newest.to_dict()
    hold = newest["hold"]
    recoveries = recoveries or Recoveries()
    return {
        "fingerprint": group.fingerprint,
        "verdict": group.verdict,
        "count": sum(group.counts.values()),
        "kinds": {str(kind): count for kind, count in group.counts.items()},
        "site": newest["site"],
        "stack": hold["stack"] if isinstance(hold, dict) else [],
        "libraries": [*sorted(group.libraries)],
        "pools": [asdict(pool) for pool in group.pools.values()],
        "owners": [
            {"test": test, "task": task, "thread": thread, "labels": dict(labels)}
            for test, task, thread, labels in group.owners
        ],
        "more_owners": group.more_owners,
        "processes": group.processes,
        **group.span.to_dict(),
        "longest_held": group.longest,
        "healed": {"yes": group.healed[True], "no": group.healed[False]},
        "recovered": {"count": recoveries.count, "longest_held": recoveries.longest},
        "reason": group.newest.reason,
        "advice": group.newest.advice,
    }
