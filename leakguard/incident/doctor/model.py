"""What the doctor sees and says, as frozen values. Times are aware datetimes of the server's clock, ages seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from leakguard.model import Hold, HoldNow, PoolNow, Site

RefusalKind = Literal[
    "full",
    "reserved",
    "role",
    "database",
    "pooler_full",
    "pooler_busy",
    "starting",
    "password",
    "no_password",
    "not_admitted",
    "no_database",
    "no_role",
    "tls_required",
    "tls",
    "unreachable",
    "no_answer",
    "not_postgres",
    "not_allowed",
    "unknown",
]
"""Why a server, or what stands at its address, did not let us in."""

CAPACITY: Final[frozenset[RefusalKind]] = frozenset(
    {"full", "reserved", "role", "database", "pooler_full", "pooler_busy"}
)
"""The refusals that say that something is used up: another door may still be open."""

Door = Literal["ordinary", "another database", "replication", "behind the pooler"]
Keeper = Literal["hold", "pool", "pooler", "process", "foreign", "zombie", "remote", "socket", "hidden", "doctor"]
"""Who has a backend: a hold; a pool of a guarded process, where it idles; PgBouncer; a process that is not guarded, or
whose guard has not seen the connection; a process of another user; nobody any more; somebody on another host; somebody
behind a Unix socket; somebody we may not see; the doctor itself."""
ShortageKind = Literal["server", "role", "database", "pool", "clients"]
"""What is used up: slots of the server, connections of a role or database, a pool of PgBouncer's, or its clients."""

CauseKind = Literal["leak", "transaction", "authentication", "zombie", "pooling", "load", "limit"]

# -------------------------------------------------------------------------------------------------- the way to a server


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a connection was tried, and as whom. `host` is a name, an address, or the directory of a Unix socket."""

    host: str
    port: int
    user: str
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a door stayed shut. `routine` is the function of PostgreSQL that refused; a pooler has none."""

    kind: RefusalKind
    sqlstate: str | None
    routine: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One door that was tried. `refusal` is null for the one that opened."""

    door: Door
    endpoint: Endpoint
    refusal: Refusal | None


# ----------------------------------------------------------------------------------------------------- what it tells


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A row of ``pg_stat_activity``. `kind` is its ``backend_type``, or what we make of one that we may not see.

    `visible` is false where the server hides the row's details from our role. `client_port` is -1 for a Unix socket.
    `statement` has no literals in it. `blocked_by` are the backends whose locks it waits for.
    """

    pid: int
    kind: str
    visible: bool
    database: str | None
    user: str | None
    application: str
    client: str | None
    client_port: int | None
    started_at: datetime | None
    state: str | None
    state_since: datetime | None
    transaction_since: datetime | None
    wait: str | None
    statement: str | None
    blocked_by: tuple[int, ...]

    @property
    def takes_slot(self) -> bool:
        """Whether it counts against ``max_connections``: walsenders and background workers do not."""
        return self.kind == "client backend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A CONNECTION LIMIT of a role or a database, and how many connections it has."""

    name: str
    limit: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """How many connections the server takes, and from whom. Counts are of ``max_connections`` unless named otherwise.

    `used` counts the visible client connections without the doctor's own, `starting` those of them that have not logged
    in yet, which PostgreSQL shows from version 18 on. `hidden` is how many more slots are taken by connections that it
    does not show: what is missing from the sum of a server that was seen to be full, else 0.
    """

    max_connections: int
    superuser_reserved: int
    reserved: int
    used: int
    starting: int
    hidden: int
    walsenders: int
    max_wal_senders: int
    roles: tuple[Limit, ...]
    databases: tuple[Limit, ...]

    @property
    def ordinary(self) -> int:
        """How many connections a role without privileges can fill."""
        return self.max_connections - self.superuser_reserved - self.reserved


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """One server at one moment. `unset` names the timeouts that are off; `overridden` those a role or database sets.

    `rescuers` are roles that could come in by the replication door when every slot is taken. `is_here` says that the
    server's processes are those of this host, `clock_ahead` by how many seconds its clock is ahead of ours.
    """

    now: datetime
    clock_ahead: float
    version: str
    endpoint: Endpoint
    own_pid: int
    own_client: tuple[str, int] | None
    role: str
    degraded: bool
    through_pooler: bool
    is_here: bool
    capacity: Capacity
    settings: Mapping[str, str]
    unset: tuple[str, ...]
    overridden: tuple[str, ...]
    rescuers: tuple[str, ...]
    backends: tuple[Backend, ...]


# ----------------------------------------------------------------------------------------------------------- PgBouncer


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncerSocket:
    """One socket of PgBouncer's: to a client (`kind` C) or a server (S). `link` is the `key` of its counterpart."""

    kind: Literal["C", "S"]
    key: str
    link: str
    user: str | None
    database: str | None
    state: str
    address: str | None
    port: int | None
    local_address: str | None
    local_port: int | None
    remote_pid: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncerPool:
    """One pool of PgBouncer's: a database and a user. `longest_wait` is in seconds."""

    database: str
    user: str
    mode: str | None
    size: int | None
    active: int
    idle: int
    clients: int
    waiting: int
    longest_wait: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BouncerFacts:
    """PgBouncer at one moment. `missing` names columns and tables that this version or role does not give."""

    version: str
    endpoint: Endpoint
    max_clients: int | None
    pools: tuple[BouncerPool, ...]
    sockets: tuple[BouncerSocket, ...]
    servers: tuple[tuple[str | None, int], ...]
    missing: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------- this host


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process that has connections. `guarded` says that it answered for itself, or wrote an event file."""

    pid: int
    command: str
    host: str
    guarded: bool


# ------------------------------------------------------------------------------------------------------------ the join


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A backend beside who has it.

    `sure` says that the two ends of one socket were matched, and not merely the process id; `live` that the process
    has just said so itself, and not a file. `through` is PgBouncer's socket to the client, `user` the user id of a
    process that only that user, or root, may look into. `blocks` are the backends that wait for this one, directly or
    behind others.
    """

    backend: Backend
    keeper: Keeper
    sure: bool
    live: bool = False
    process: Process | None = None
    hold: HoldNow | None = None
    pool: str | None = None
    through: BouncerSocket | None = None
    user: int | None = None
    blocks: tuple[int, ...] = ()

    @property
    def site(self) -> Site | None:
        """The line that acquired it."""
        return self.hold.hold.site if self.hold is not None else None

    @property
    def fingerprint(self) -> str | None:
        """The bug's name."""
        return self.hold.fingerprint if self.hold is not None else None

    @property
    def proven(self) -> bool:
        """Whether it is a leak for certain."""
        return self.hold is not None and self.hold.proven

    @property
    def suspected(self) -> bool:
        """Whether it is suspected of a leak: more than advice."""
        return self.hold is not None and any(kind != "nested_acquire" for kind in self.hold.suspected)

    @property
    def allowed(self) -> bool:
        """Whether it is held on purpose."""
        return self.hold is not None and self.hold.allowed is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A connection that a process believes in, and the server does not have. `hold` is null where it idles in a
    pool."""

    process: Process
    backend_pid: int
    pool: str | None
    hold: HoldNow | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """A pool definition and the processes that have it. `capacity` is that of one process, null if unlimited.

    `through_pooler` says that it leads to PgBouncer. `lost` slots are gone for good, over all these processes.
    """

    name: str
    library: str
    site: Site | None
    processes: int
    capacity: int | None
    open: int
    held: int
    lost: int
    pending: int
    error: str | None
    through_pooler: bool

    @staticmethod
    def of(pools: Sequence[PoolNow], *, through_pooler: bool) -> PoolUse:
        """The sum of one pool definition's pools, one a process."""
        first = pools[0]
        capacities = [pool.capacity for pool in pools]
        return PoolUse(
            name=first.name,
            library=first.library,
            site=first.created_at,
            processes=len(pools),
            capacity=None if None in capacities else max(capacity for capacity in capacities if capacity is not None),
            open=sum(pool.open for pool in pools),
            held=sum(pool.held for pool in pools),
            lost=sum(pool.lost for pool in pools),
            pending=sum(pool.pending for pool in pools),
            error=next((pool.error for pool in pools if pool.error is not None), None),
            through_pooler=through_pooler,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """Everything matched. `slots` has one entry a backend that takes a slot, the oldest first.

    `unlogged` are processes of this host with connections that have not logged in, `unmatched` counts the holds that
    are on other servers, or nowhere that can be told.
    """

    slots: tuple[Slot, ...]
    phantoms: tuple[Phantom, ...]
    pools: tuple[PoolUse, ...]
    processes: tuple[Process, ...]
    unlogged: tuple[tuple[Process, int], ...]
    unmatched: int


# ---------------------------------------------------------------------------------------------------------- the answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One thing that speaks for a cause; `label` says what it is about."""

    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One explanation of taken slots, with what speaks for it. `certain` is a proven leak or an arithmetic fact.

    `slots` is how many it explains, those included that wait behind it; `pids` are its backends. `next` are commands.
    `hold` is the oldest hold where a line is to blame.
    """

    kind: CauseKind
    certain: bool
    slots: int
    title: str
    site: Site | None = None
    fingerprint: str | None = None
    evidence: tuple[Evidence, ...] = ()
    fix: str | None = None
    next: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What is used up, or nearly: `used` of `limit`. `what` is a few words; `role` and `database` say for whom."""

    kind: ShortageKind
    what: str
    used: int
    limit: int
    full: bool
    role: str | None = None
    database: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The whole answer. `source` says where the server was named, `problem` decides the exit status, `notes` say what
    could not be seen, and advice."""

    source: str
    endpoint: Endpoint
    attempts: tuple[Attempt, ...]
    server: ServerFacts
    bouncer: BouncerFacts | None
    joined: Joined
    shortages: tuple[Shortage, ...]
    causes: tuple[Cause, ...]
    problem: bool
    notes: tuple[str, ...]
