"""Holds in a form that is quick to write, and short: tables and columns.

Ten thousand holds have to be told within 50 ms, by a thread that shares the interpreter with an application that spins.
So no object is made for a hold: what many have in common stands in a table once, and a hold is one number in each of a
few columns. `leakguard.live.answer` makes a `Snapshot` of it again, and says what each table and column is.
"""

from __future__ import annotations

import itertools
import math
import struct
import time
from array import array
from binascii import a2b_base64, b2a_base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from operator import attrgetter
from typing import Final, Literal, cast

from leakguard.judging.judge import state_of
from leakguard.model import Frame, Json, OwnerState, Server, State
from leakguard.register.owners import OwnerRecord, is_alive
from leakguard.register.records import HoldRecord
from leakguard.register.stacks import FrameRules, RawStack, SitePoint, resolve
from leakguard.telling.snapshot import Snapshots, origin_of, server_behind, statement_text, thread_stacks

REDACTING: Final = 0.01
"""Seconds for taking the literals out of statements; once they are over, one that differs is only said to be there."""
NOT_SHOWN: Final = "(not shown: too many different statements)"
NULL: Final = -(1 << 63)
"""What stands for null in a column of integers."""
NEVER: Final = -math.inf
"""What stands for null in a column of moments."""
RECENT_LIMIT: Final = 8
"""How many stacks of a line are compared before it is looked up."""
NOWHERE: Final = Server(host=None, port=None, dbname=None, user=None, backend_pid=None, client_port=None)
"""Stands for the server of a connection that has none, or cannot tell."""
_ADDRESS: Final = ("host", "port", "dbname", "user")
_STATE_OF: Final[Mapping[bool | None, OwnerState]] = {True: "running", False: "ended", None: "unknown"}


def columns(
    holds: Sequence[HoldRecord],
    now: float,
    snapshots: Snapshots,
    rules: FrameRules,
    kept_by: Mapping[int, Sequence[str]],
) -> dict[str, Json]:
    """The holds as they are at `now`, a moment of the tracker's clock; `kept_by` has reference paths by id of the hold.

    Safe while other threads acquire and release: a hold that ends meanwhile is told as it was.
    """
    stacks = _Stacks(rules)
    wires = map(attrgetter("wire"), holds)
    servers = [NOWHERE if wire is None else wire.server or server_behind(wire) or NOWHERE for wire in wires]
    shape_of, shapes = _shapes(holds, servers, snapshots, stacks)
    person_of, people = _people(holds, snapshots, stacks)
    statement_of, statements = _statements([hold.last_statement for hold in holds])
    return {
        "shapes": shapes,
        "people": people,
        "stacks": stacks.stacks,
        "frames": stacks.frames,
        "statements": statements,
        "kept_by": {str(serial): list(lines) for serial, lines in kept_by.items()},
        "moment": now,
        "columns": {
            "id": packed("q", map(attrgetter("serial"), holds)),
            "acquired": packed("d", map(attrgetter("acquired_at"), holds)),
            "used": packed("d", [NEVER if (used := hold.last_used) is None else used for hold in holds]),
            "statements": packed("q", map(attrgetter("statements"), holds)),
            "statement": packed("q", statement_of),
            "shape": packed("q", shape_of),
            "person": packed("q", person_of),
            "backend_pid": _packed_or_null(map(attrgetter("backend_pid"), servers)),
            "client_port": _packed_or_null(map(attrgetter("client_port"), servers)),
        },
        "traces": {
            str(hold.serial): [trace.trace_id, trace.span_id] for hold in holds if (trace := hold.trace) is not None
        },
    }


def packed(form: Literal["q", "d"], numbers: Iterable[float]) -> str:
    """A column: 64 bits each, integers or floats, in this machine's order, as base64. To write them as JSON takes five
    times as long."""
    given = list(numbers)
    return b2a_base64(struct.pack(f"{len(given)}{form}", *given), newline=False).decode()


def unpacked(form: Literal["q", "d"], column: str) -> Sequence[float]:
    """The numbers of a column. Raises ValueError."""
    return array(form, a2b_base64(column, strict_mode=True))


def _packed_or_null(numbers: Iterable[int | None]) -> str:
    given = list(numbers)
    if None in given:
        return packed("q", [NULL if number is None else number for number in given])
    return packed("q", cast("list[int]", given))


class _Stacks:
    """The table of stacks, and that of the frames in them."""

    def __init__(self, rules: FrameRules) -> None:
        self._rules = rules
        self._frame_of: dict[Frame, int] = {}
        self._stack_of: dict[tuple[object, ...], int] = {}
        self.frames: list[Json] = []
        self.stacks: list[Json] = []

    def add(self, raw: RawStack) -> int:
        """The number of a stack."""
        key = (*map(id, raw[::2]), *raw[1::2])  # a code object's own hash takes longer than all the rest
        known = self._stack_of.get(key)
        if known is None:
            known = self._stack_of[key] = len(self.stacks)
            self.stacks.append([self._number(frame) for frame in resolve(raw, self._rules)])
        return known

    def _number(self, frame: Frame) -> int:
        known = self._frame_of.get(frame)
        if known is None:
            known = self._frame_of[frame] = len(self.frames)
            self.frames.append(asdict(frame))
        return known


def _shapes(
    holds: Sequence[HoldRecord], servers: Sequence[Server], snapshots: Snapshots, stacks: _Stacks
) -> tuple[list[int], list[Json]]:
    """The number of each hold's shape, and the shapes: what it has in common with others from the same line."""
    shape_of: dict[tuple[object, ...], int] = {}
    recent_of: defaultdict[SitePoint | None, list[tuple[RawStack, int]]] = defaultdict(list)
    column: list[int] = []
    first: list[tuple[HoldRecord, State, int, Server]] = []
    for hold, server, address in zip(holds, servers, map(attrgetter(*_ADDRESS), servers), strict=True):
        pool, site, frames, state = hold.pool, hold.site, hold.frames, state_of(hold)
        # Most lines have few stacks, and to compare those is quicker than any hash.
        recent = recent_of[site]
        for known, number in recent:
            if known == frames:
                stack = number
                break
        else:
            stack = stacks.add(frames)
            if len(recent) < RECENT_LIMIT:
                recent.append((frames, stack))
        library = hold.library if pool.direct else None
        key = (pool, library, hold.operation, site, stack, address, state, hold.suspected, hold.proven, hold.allowed)
        shape = shape_of.get(key)
        if shape is None:
            shape = shape_of[key] = len(first)
            first.append((hold, state, stack, server))
        column.append(shape)
    names: dict[tuple[str, int], str] = {}
    return column, [_shape(*one, snapshots, names) for one in first]


def _shape(
    hold: HoldRecord, state: State, stack: int, server: Server, snapshots: Snapshots, names: dict[tuple[str, int], str]
) -> Json:
    """The shape of the first hold that has it. `names` has the bugs that have been named already."""
    bug = hold.library, stack
    if bug not in names:
        names[bug] = snapshots.fingerprint(hold)
    return {
        "library": hold.library,
        "operation": hold.operation,
        "pool": None if hold.pool.direct else hold.pool.name,
        "site": asdict(hold.site.site()) if hold.site is not None else None,
        "stack": stack,
        "address": {name: getattr(server, name) for name in _ADDRESS} if server is not NOWHERE else None,
        "state": state,
        "fingerprint": names[bug],
        "suspected": list(hold.suspected),
        "proven": hold.proven,
        "allowed": hold.allowed,
    }


def _people(holds: Sequence[HoldRecord], snapshots: Snapshots, stacks: _Stacks) -> tuple[list[int], list[Json]]:
    """The number of each hold's owner, and the owners: who it is, in which context it acquired, where it is now."""
    threads = thread_stacks({hold.owner.ident for hold in holds})
    by_scope = snapshots.origin_of is origin_of  # a test runner tells more of a hold than its scope does
    now_of: dict[OwnerRecord, tuple[OwnerState, int]] = {}
    person_of: dict[tuple[object, ...], int] = {}
    column: list[int] = []
    people: list[Json] = []
    latest: tuple[object, object] = (None, None)
    person: int | None = None
    for hold in holds:
        owner, context = hold.owner, hold.scope if by_scope else hold
        if owner is latest[0] and context is latest[1] and person is not None:  # one thread may hold thousands
            column.append(person)
            continue
        latest = owner, context
        key = owner, id(context)
        person = person_of.get(key)
        if person is None:
            person = person_of[key] = len(people)
            if owner not in now_of:
                state = _STATE_OF[is_alive(owner)]
                now_of[owner] = state, stacks.add(snapshots.raw_now(owner, threads) if state == "running" else ())
            test, labels = snapshots.origin_of(hold)
            state, stack = now_of[owner]
            people.append(
                {
                    "thread": owner.name,
                    "task": owner.task_name,
                    "test": test,
                    "labels": dict(labels),
                    "state": state,
                    "stack": stack,
                }
            )
        column.append(person)
    return column, people


def _statements(given: Sequence[object]) -> tuple[list[int], list[Json]]:
    """The number of each hold's last statement, and the statements, without literals."""
    number: defaultdict[object, int] = defaultdict(itertools.count().__next__)
    # What is no text (a composed query) is not told, and need not be hashable.
    column = [number[one] if isinstance(one, (str, bytes)) else NULL for one in given]
    deadline = time.perf_counter() + REDACTING
    return column, [statement_text(one) if time.perf_counter() < deadline else NOT_SHOWN for one in number]
