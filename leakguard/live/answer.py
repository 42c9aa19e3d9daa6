"""What a guarded process answers, read back: from tables and columns to a `Snapshot`.

The answer is one line of JSON, ``{"protocol": 1, "version": "...", "snapshot": {...}}``, or with ``"error"`` instead of
a snapshot. Its snapshot has no holds, but what they are made of: see `Packed`. What cannot be right is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, NamedTuple

from leakguard.live import PROTOCOL
from leakguard.model import (
    Frame,
    Hold,
    HoldNow,
    Json,
    Kind,
    Now,
    Owner,
    OwnerState,
    Server,
    Site,
    Snapshot,
    State,
    Trace,
)
from leakguard.redact import visible
from leakguard.reporters.jsonl import DamagedError, decoder_of
from leakguard.telling.columns import NEVER, NULL, unpacked

_MOMENTS: Final = ("acquired", "used")


class AnswerError(ValueError):
    """There is no snapshot in what was answered; the text says why, as the end of a sentence about the process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What many holds have in common. `stack` is a number in the table of stacks; `address` has no process and port."""

    library: str
    operation: str
    pool: str | None
    site: Site | None
    stack: int
    address: Server | None
    state: State
    fingerprint: str
    suspected: tuple[Kind, ...]
    proven: bool
    allowed: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """An owner, in the context in which it acquired. `state` and `stack` say where it is now."""

    thread: str | None
    task: str | None
    test: str | None
    labels: Mapping[str, str]
    state: OwnerState
    stack: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What differs from hold to hold: one number a hold in each, oldest hold first; see `packed` in telling.columns.

    `acquired` and `used` are moments by the process's clock, on which `Packed.moment` is that of the snapshot; `shape`,
    `person` and `statement` are numbers in the table of that name.
    """

    id: str
    acquired: str
    used: str
    statements: str
    statement: str
    shape: str
    person: str
    backend_pid: str
    client_port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The tables. A stack is numbers in the table of frames; `kept_by` has reference paths by the id of a hold,
    `traces` the two numbers of a trace."""

    shapes: tuple[Shape, ...]
    people: tuple[Person, ...]
    stacks: tuple[tuple[int, ...], ...]
    frames: tuple[Frame, ...]
    statements: tuple[str, ...]
    kept_by: Mapping[str, tuple[str, ...]]
    traces: Mapping[str, tuple[str, ...]]
    moment: float
    columns: Columns


def read(line: bytes) -> Snapshot:
    """The snapshot in an answer. Raises AnswerError."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError, MemoryError):
        raise AnswerError("ended before it had answered" if not line else "gave an answer that is damaged") from None
    if not isinstance(answer, dict):
        raise AnswerError("gave an answer that is damaged")
    if answer.get("protocol") != PROTOCOL:
        version = visible(str(answer.get("version", "?")), 40)
        raise AnswerError(f"runs leakguard {version}, which answers in another form: ask it with that version")
    if "error" in answer:
        raise AnswerError(f"could not answer: {visible(str(answer['error']))}")
    try:
        return snapshot_of(answer["snapshot"])
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise AnswerError(f"gave an answer that is damaged: {visible(str(error))}") from None


def snapshot_of(packed: Mapping[str, Json]) -> Snapshot:
    """The snapshot that tables and columns stand for. Raises DamagedError, ValueError, LookupError or OverflowError."""
    if packed.get("event") != "snapshot" or not isinstance(packed.get("columns"), dict):
        raise DamagedError("no snapshot")
    snapshot, tables = decoder_of(Snapshot)(packed), decoder_of(Packed)(packed)
    return replace(snapshot, holds=tuple(_holds(snapshot, tables)))


def _holds(snapshot: Snapshot, tables: Packed) -> Iterator[HoldNow]:
    stacks = [tuple(map(tables.frames.__getitem__, stack)) for stack in tables.stacks]
    people = [_Present.of(person, stacks, snapshot) for person in tables.people]
    columns = [unpacked("d" if name in _MOMENTS else "q", getattr(tables.columns, name)) for name in Columns.__slots__]
    for serial, acquired, used, statements, statement, shape_at, person_at, pid, port in zip(*columns, strict=True):
        shape, person = tables.shapes[shape_at], people[person_at]
        trace = tables.traces.get(str(serial))
        held_for = round(tables.moment - acquired, 6)
        hold = Hold(
            id=serial,
            library=shape.library,
            operation=shape.operation,
            pool=shape.pool,
            acquired_at=snapshot.time - timedelta(seconds=held_for),
            held_for=held_for,
            last_used_at=None if used == NEVER else snapshot.time - timedelta(seconds=tables.moment - used),
            statements=statements,
            last_statement=None if statement == NULL else tables.statements[statement],
            owner=person.owner,
            site=shape.site,
            stack=stacks[shape.stack],
            server=None if shape.address is None else _server(shape.address, pid, port),
            state=shape.state,
            trace=None if trace is None else Trace(trace_id=trace[0], span_id=trace[1]),
        )
        yield HoldNow(
            hold=hold,
            fingerprint=shape.fingerprint,
            now=person.now,
            suspected=shape.suspected,
            proven=shape.proven,
            allowed=shape.allowed,
            kept_by=tables.kept_by.get(str(serial)),
            cure=None,
        )


class _Present(NamedTuple):
    """An owner as the model tells it, and where it is."""

    owner: Owner
    now: Now

    @classmethod
    def of(cls, person: Person, stacks: Sequence[tuple[Frame, ...]], snapshot: Snapshot) -> _Present:
        owner = Owner(
            pid=snapshot.pid,
            process=snapshot.process,
            host=snapshot.host,
            thread=person.thread,
            task=person.task,
            test=person.test,
            labels=person.labels,
        )
        return cls(owner, Now(owner=person.state, stack=stacks[person.stack]))


def _server(address: Server, backend_pid: int, client_port: int) -> Server:
    return Server(
        host=address.host,
        port=address.port,
        dbname=address.dbname,
        user=address.user,
        backend_pid=None if backend_pid == NULL else backend_pid,
        client_port=None if client_port == NULL else client_port,
    )
