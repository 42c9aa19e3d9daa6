"""What leakguard tells: holds, leaks and the other events, as frozen values.

The attribute names are the keys of the JSON events, nested the same way (``leak.hold.site.line``). Times are aware
``datetime`` objects, durations float seconds. Nothing here refers to a connection, pool, engine, frame or traceback,
so an event may be kept for ever without keeping anything alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias, cast

SCHEMA: Final = 1

Kind = Literal[
    "dropped",
    "orphaned",
    "lost_slot",
    "overdue",
    "idle_in_transaction",
    "outstanding",
    "unclosed_pool",
    "nested_acquire",
]
State = Literal["idle", "active", "in_transaction", "in_error", "closed", "unknown"]
Boundary = Literal["test", "no_leaks", "exit"]
OwnerState = Literal["running", "ended", "unknown"]
Cause = Literal["pool", "server", "reserved", "role", "database", "pooler"]

KINDS: Final[tuple[Kind, ...]] = (
    "dropped",
    "orphaned",
    "lost_slot",
    "outstanding",
    "unclosed_pool",
    "overdue",
    "idle_in_transaction",
    "nested_acquire",
)
"""All kinds, worst first: the order of reports."""

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of a stack: where, and whether it belongs to the application."""

    file: str
    line: int
    function: str
    app: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The line that acquired a connection or created a pool. `code` is that source line, without secrets."""

    file: str
    line: int
    function: str
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who acquired. `thread`, `task` and `test` are names; `labels` come from ``leakguard.label()``."""

    pid: int
    process: str
    host: str
    thread: str | None
    task: str | None
    test: str | None
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server's end of a connection, as far as the driver tells without a round trip."""

    host: str | None
    port: int | None
    dbname: str | None
    user: str | None
    backend_pid: int | None
    client_port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The OpenTelemetry span that was current when a connection was acquired: 32 and 16 hex digits."""

    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolInfo:
    """A pool at the time of the report. `open` counts its server connections, `capacity` is null if unlimited."""

    name: str
    library: str
    created_at: Site | None
    open: int | None
    capacity: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One interval from acquire to release of one connection. `held_for` is in seconds."""

    id: int
    library: str
    operation: str
    pool: str | None
    acquired_at: datetime
    held_for: float
    last_used_at: datetime | None
    statements: int | None
    last_statement: str | None
    owner: Owner
    site: Site | None
    stack: tuple[Frame, ...]
    server: Server | None
    state: State
    trace: Trace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Where the owner is at the time of the report. `stack` is innermost first, empty where it has ended."""

    owner: OwnerState
    stack: tuple[Frame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A finding about one hold, or (with `hold` null) about one pool.

    `count` is how many of this kind and fingerprint this process has found so far, this one included. `healed` says
    whether the library took the connection, or at least its place in the pool, back by itself.
    """

    event: Literal["leak"] = field(default="leak", init=False)
    kind: Kind
    certain: bool
    healed: bool
    time: datetime
    fingerprint: str
    count: int
    boundary: Boundary | None
    site: Site | None
    pool: PoolInfo | None
    reason: str
    advice: str
    hold: Hold | None
    now: Now

    def to_dict(self) -> dict[str, Json]:
        """The JSON event."""
        return event_to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """A hold that was suspected (`kind`) has been released after all, `held_for` seconds after it was acquired."""

    event: Literal["recovered"] = field(default="recovered", init=False)
    kind: Kind
    time: datetime
    fingerprint: str
    hold: Hold
    held_for: float

    def to_dict(self) -> dict[str, Json]:
        """The JSON event."""
        return event_to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderGroup:
    """The holds of one bug: how many, and for how many seconds the oldest of them has been held."""

    fingerprint: str
    count: int
    oldest: float
    site: Site | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """An acquire failed because a pool or a server had no connection left. `holders` are sorted worst first.

    `count` is how many acquires have failed so on this pool so far, `lost` how many of its slots are lost for good.
    """

    event: Literal["exhausted"] = field(default="exhausted", init=False)
    time: datetime
    pid: int
    cause: Cause
    count: int
    pool: str | None
    error: str
    holders: tuple[HolderGroup, ...]
    held: int
    capacity: int | None
    lost: int

    def to_dict(self) -> dict[str, Json]:
        """The JSON event."""
        return event_to_dict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The exact counts of one process: ``acquired == released + held + leaked``.

    `leaked` counts the holds that ended by garbage collection; `leaks` counts the findings of each kind;
    `dropped_events` those events that a reporter was not told because a thousand others waited for it.
    """

    event: Literal["summary"] = field(default="summary", init=False)
    time: datetime
    pid: int
    process: str
    host: str
    acquired: int
    released: int
    held: int
    leaked: int
    leaks: Mapping[str, int]
    internal_errors: int
    dropped_events: int = 0

    def to_dict(self) -> dict[str, Json]:
        """The JSON event."""
        return event_to_dict(self)


Event: TypeAlias = Leak | Recovered | Exhausted | Summary


def event_to_dict(event: Event | Snapshot) -> dict[str, Json]:
    """One event as the object that goes into a JSON Lines file: schema first, then the event's own keys."""
    body = cast("dict[str, Json]", plain(event))
    name = body.pop("event")
    return {"schema": SCHEMA, "event": name, **body}


def plain(value: object) -> Json:
    """A value of this module, or one that is made like those, as JSON has it. Raises TypeError."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case datetime():
            return value.isoformat(timespec="microseconds")
        case Mapping():
            return {str(key): plain(item) for key, item in value.items()}
        case tuple() | list():
            return [plain(item) for item in value]
        case _ if is_dataclass(value):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no place in an event")


# ---------------------------------------------------------------------------------------------- what a process answers


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolNow:
    """A pool at the moment of a snapshot.

    `open` counts its server connections, `held` those that are checked out, `lost` its slots that are gone for good,
    `pending` the acquires that wait; `idle` are the server's ends of the connections that nobody holds. `error` is
    what the server said to the latest attempt to connect, while none has succeeded since.
    """

    name: str
    library: str
    fingerprint: str
    created_at: Site | None
    open: int
    held: int
    lost: int
    pending: int
    timeouts: int
    capacity: int | None
    error: str | None
    idle: tuple[Server, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldNow:
    """A hold at the moment of a snapshot, and where its owner is now.

    `suspected` are the kinds reported of it so far, `proven` says whether a certain leak was; `allowed` is the reason
    given to ``allow()``. `kept_by` is the reference path, a line a step, and null where it was not asked for.
    `cure` says how to write the acquiring line instead, null where nothing is certain.
    """

    hold: Hold
    fingerprint: str
    now: Now
    suspected: tuple[Kind, ...]
    proven: bool
    allowed: str | None
    kept_by: tuple[str, ...] | None
    cure: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakCount:
    """How many leaks of one kind and bug the process has found so far, and when the latest of them."""

    kind: Kind
    certain: bool
    fingerprint: str
    site: Site | None
    count: int
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One process, at one moment: everything that it holds, its pools, and what it has found so far.

    `holds` are sorted oldest first; `left_out` says how many more there were than a snapshot may carry. `settings`
    are the texts of the settings in force. `dropped_events` counts events that no reporter was told for want of room.
    """

    event: Literal["snapshot"] = field(default="snapshot", init=False)
    time: datetime
    version: str
    pid: int
    parent_pid: int
    process: str
    host: str
    python: str
    started_at: datetime
    settings: Mapping[str, str]
    pools: tuple[PoolNow, ...]
    holds: tuple[HoldNow, ...]
    left_out: int
    leaks: tuple[LeakCount, ...]
    acquired: int
    released: int
    held: int
    leaked: int
    internal_errors: int
    dropped_events: int

    def to_dict(self) -> dict[str, Json]:
        """The JSON object; read back by `leakguard.reporters.jsonl.decode`."""
        return event_to_dict(self)
