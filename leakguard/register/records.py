"""The mutable records behind a hold: the server connection, the pool, who watches them, and the hold itself.

Nothing here refers strongly to a connection, a pool or a frame. The records are written by the application's threads
without a lock: each write is a single attribute or dictionary operation, and the order of two of them is explained
where it matters.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Final, Protocol, TypeAlias

from leakguard.model import Kind, Server, State, Trace
from leakguard.register.owners import OwnerRecord
from leakguard.register.scopes import Scope
from leakguard.register.stacks import RawStack, SitePoint
from leakguard.settings import Settings

BY_SERIAL: Final = attrgetter("serial")
"""Sorts holds, oldest first; there may be thousands, and a lambda would take three times as long."""


class Driver(Protocol):
    """What leakguard asks of a connection object, at report time only and never with a round trip."""

    @property
    def library(self) -> str:
        """The `library` of a direct hold of this driver."""

    @property
    def embedded(self) -> bool:
        """Whether the database lives in this very process: then an idle connection costs no server anything."""

    def state(self, connection: object) -> State:
        """The connection's transaction state. May be called from any thread; may raise."""

    def server(self, connection: object) -> Server | None:
        """Host, port, database, user, backend pid, client port. May be called from any thread; may raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a pool says of its own connections.

    `out` are those that it believes to be checked out, being opened included. `home` are the open ones that it could
    hand out at once; null where it counts what is on its way home as no longer out. `waiting` acquires are in line for
    a connection, and have none yet.
    """

    out: int
    home: int | None = None
    waiting: int = 0


class PoolProbe(Protocol):
    """What leakguard asks of a pool object, at report time and for its accounting."""

    def capacity(self, pool: object) -> int | None:
        """The most connections that can be out at once; None without a limit."""

    def account(self, pool: object) -> Account | None:
        """Its own count of its connections; None where it does not count, or its count proves nothing just now."""

    def close_loses_slot(self) -> bool:
        """Whether closing a checkout instead of returning it costs the pool a slot."""

    def abandoned(self, pool: object, handle: Callable[[], object | None]) -> bool | None:
        """Whether nobody but the pool itself refers to what a hold handed out, so that nobody can give it back any
        more; None where that cannot be told. `handle` is the hold's weak reference: a strong one would be counted."""


class Meter(Protocol):
    """What an exporter of metrics wants to be told as it happens; everything else it reads from the register.

    Called inside the application's acquire and release, so it must be quick, take no lock for long and not raise.
    """

    def waited(self, pool: PoolRecord, seconds: float) -> None:
        """A checkout was handed out, this long after it was asked for."""

    def used(self, pool: PoolRecord, seconds: float) -> None:
        """A checkout was returned, this long after it was handed out."""

    def created(self, pool: PoolRecord, seconds: float) -> None:
        """A server connection was opened for the pool, and that took so long."""


class End(Enum):
    """How a hold ended."""

    RELEASED = "released"
    COLLECTED = "collected"
    FORGOTTEN = "forgotten"  # it turned out to be the pool's own, or was inherited over a fork: as if never acquired


class Watch:
    """What one guard watches with: its settings, and the counts that only the hot path can make."""

    __slots__ = ("acquired", "collected", "forgotten", "pending", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.reset()

    def reset(self) -> None:
        """Begin to count afresh."""
        self.acquired = itertools.count()  # next() is atomic, += is not
        self.forgotten = itertools.count()
        self.collected = 0
        self.pending: list[object] = []
        """Leaks that ``on_leak="raise"`` still has to raise, from the next acquire."""


def count_of(counter: itertools.count[int]) -> int:
    """How often ``next()`` was called, read without calling it. (Its repr is the documented way to see it.)"""
    return int(repr(counter)[6:-1])


class WireRef(weakref.ref[object]):
    """A weak reference to a connection object that knows its wire."""

    __slots__ = ("wire",)
    wire: Wire


class PoolRef(weakref.ref[object]):
    """A weak reference to a pool object that knows its record."""

    __slots__ = ("record",)
    record: PoolRecord

    @classmethod
    def to(cls, pool: object, callback: Callable[[PoolRef], object] | None = None) -> PoolRef:
        """Refer to a pool. A subclass may refer to a part that lives as long, where the pool itself does not let it."""
        return cls(pool, callback)


class Wire:
    """One server connection, from its opening to its end, whoever uses it meanwhile.

    `hold` is the outermost hold on it: where pools are stacked, the inner pool's hold stands in ``hold.beneath``.
    `tells` says that its driver's own hooks tell of its statements, so that nobody else has to listen for them.
    """

    __slots__ = ("broken", "closed_at", "driver", "hold", "key", "pool", "ref", "server", "tells")

    def __init__(self, key: int, driver: Driver) -> None:
        self.key = key
        self.driver = driver
        self.ref: WireRef | None = None
        self.hold: HoldRecord | None = None
        self.pool: PoolRecord | None = None
        self.closed_at: float | None = None
        self.broken = False
        self.tells = False
        self.server: Server | None = None

    @property
    def is_open(self) -> bool:
        """Whether the server has a session for it, as far as was noticed: a pool may drop a `broken` one unclosed."""
        return self.closed_at is None and not self.broken

    def connection(self) -> object | None:
        """The connection object while it exists."""
        return self.ref() if self.ref is not None else None


Reclaim: TypeAlias = "Callable[[object, HoldRecord], bool]"
"""Gives a pool back the slot of a checkout that nobody can reach any more; False where that cannot be done just now.

Called by leakguard's own thread, with no lock held. It must not wait for the server.
"""


class PoolRecord:
    """One pool, or (with `direct`) all the direct connections, which are treated as a pool without limits.

    `open` holds what was acquired lately, `aged` what the watchdog has taken into its schedule; a hold is in one of
    the two, for an instant in both. `begun` and `finished` count the attempts to acquire, `connects_begun` and
    `connects_finished` those to connect that the pool makes by itself, `closes_begun` and `closes_finished` those to
    close what was returned; `timed_out` counts the acquires that waited in vain. `error` is what the server said to the
    latest attempt to connect, while no later one has succeeded; until `retries_until` the pool may have others that
    failed to try again, and counts each of them as a connection.
    """

    __slots__ = (
        "aged",
        "baseline",
        "begun",
        "born",
        "closes_begun",
        "closes_finished",
        "connects_begun",
        "connects_finished",
        "created",
        "created_stack",
        "direct",
        "disposed",
        "error",
        "excess_since",
        "excess_told",
        "finished",
        "library",
        "lost",
        "lost_at",
        "name",
        "nestable",
        "open",
        "probe",
        "reclaim",
        "ref",
        "retries_until",
        "serial",
        "timed_out",
        "unclosed_told",
        "watch",
        "wires",
    )

    def __init__(self, *, name: str, library: str, probe: PoolProbe | None, watch: Watch | None) -> None:
        self.name = name
        self.library = library
        self.probe = probe
        self.watch = watch
        self.direct = probe is None
        self.ref: PoolRef | None = None
        self.reclaim: Reclaim | None = None
        self.created: SitePoint | None = None
        self.created_stack: RawStack = ()
        self.open: dict[int, HoldRecord] = {}
        self.aged: dict[int, HoldRecord] = {}
        self.wires: dict[int, Wire] = {}
        self.begun = itertools.count()
        self.finished = itertools.count()
        self.connects_begun = itertools.count()
        self.connects_finished = itertools.count()
        self.closes_begun = itertools.count()
        self.closes_finished = itertools.count()
        self.timed_out = itertools.count()
        self.nestable = False
        self.born = 0.0
        self.serial = 0
        self.unclosed_told = False
        self.disposed = False
        self.lost = 0
        self.lost_at: dict[SitePoint, None] = {}
        self.error: str | None = None
        self.retries_until = 0.0
        self.baseline: int | None = None
        self.excess_since: float | None = None
        self.excess_told = 0

    def pool(self) -> object | None:
        """The pool object while it exists."""
        return self.ref() if self.ref is not None else None

    def idle(self) -> int:
        """How many server connections it keeps open that nobody holds."""
        wires = [wire for wire in list(self.wires.values()) if wire.is_open and wire.hold is None]
        return sum(1 for wire in wires if wire.ref is not None and not wire.driver.embedded)

    @property
    def timeouts(self) -> int:
        """How many acquires failed because no connection became free in time."""
        return count_of(self.timed_out)

    def pending(self) -> int:
        """How many acquires have begun and not finished."""
        # `finished` first: an attempt that ends between the two looks counts as under way, never as less than nothing.
        finished = count_of(self.finished)
        return count_of(self.begun) - finished

    def connecting(self) -> int:
        """How many connects that the pool makes by itself have begun and not finished."""
        finished = count_of(self.connects_finished)
        return count_of(self.connects_begun) - finished

    def closing(self) -> int:
        """How many closes by a pool that counts what it closes until that is done have begun and not finished."""
        finished = count_of(self.closes_finished)
        return count_of(self.closes_begun) - finished

    def count(self) -> int:
        """How many of its connections are held now, detached ones included."""
        return len({*self.aged.copy(), *self.open.copy()})

    def holds(self) -> list[HoldRecord]:
        """Everything held of this pool now, oldest first. Safe while other threads acquire and release."""
        return sorted({**self.aged.copy(), **self.open.copy()}.values(), key=BY_SERIAL)


class HoldRecord:
    """One hold, from acquire to release.

    What every hold has stands in a slot. The rest are defaults of the class: they cost nothing until one is written,
    which makes the instance dictionary that most holds never need.
    """

    __slots__ = (
        "__dict__",
        "acquired_at",
        "ended",
        "frames",
        "handle",
        "last_statement",
        "last_used",
        "operation",
        "owner",
        "pool",
        "scope",
        "serial",
        "site",
        "statements",
        "wire",
    )

    serial: int
    pool: PoolRecord
    wire: Wire | None
    handle: Callable[[], object | None] | None
    operation: str
    owner: OwnerRecord
    scope: Scope
    acquired_at: float
    site: SitePoint | None
    frames: RawStack
    last_used: float | None
    statements: int
    last_statement: object
    ended: End | None

    lenders: tuple[OwnerRecord, ...] = ()
    """Who owned it before and lived on: whoever lends a connection to a task has it back when that task ends."""
    trace: Trace | None = None
    active_since: float | None = None
    beneath: HoldRecord | None = None
    covered: bool = False
    detached: bool = False
    touched: bool = False
    proven: bool = False
    suspected: tuple[Kind, ...] = ()
    idle_since: tuple[float, float | None, int] | None = None
    """When its transaction was first seen idle for so long, its last use and how many statements it had run by then."""
    allowed: str | None = None

    @property
    def library(self) -> str:
        """The `library` of the contract: the pool's, or for a direct connection the driver's."""
        return self.wire.driver.library if self.pool.direct and self.wire is not None else self.pool.library

    @property
    def is_checkout(self) -> bool:
        """Whether a pool waits for its return: age alone makes only those suspect."""
        return not self.pool.direct and not self.detached


def new_hold(
    serial: int,
    pool: PoolRecord,
    wire: Wire | None,
    handle: Callable[[], object | None] | None,
    operation: str,
    owner: OwnerRecord,
    scope: Scope,
    acquired_at: float,
    site: SitePoint | None,
    frames: RawStack,
) -> HoldRecord:
    """A hold for an attempt to acquire. What succeeds is recorded by ``Tracker.acquired()``, the hot path, which has
    this written out: to call it, or an ``__init__``, would take twice as long."""
    hold = HoldRecord()
    hold.serial = serial
    hold.pool = pool
    hold.wire = wire
    hold.handle = handle
    hold.operation = operation
    hold.owner = owner
    hold.scope = scope
    hold.acquired_at = acquired_at
    hold.site = site
    hold.frames = frames
    hold.last_used = hold.last_statement = hold.ended = None
    hold.statements = 0
    return hold
