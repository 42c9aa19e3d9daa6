"""What a PostgreSQL server tells of itself: its limits, who is connected, who waits for whom.

All of it is read in one transaction with a search path of nothing but ``pg_catalog``, so that no object of a database
can stand in for the system's own. The setting is local to that transaction: through a pooler, nothing stays behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from leakguard import redact
from leakguard.incident.doctor.model import Backend, Capacity, Endpoint, Limit, ServerFacts
from leakguard.incident.doctor.wire import deadline

if TYPE_CHECKING:
    from leakguard.incident.doctor.wire import Connection

Row = Mapping[str, Any]

QUERY_TIMEOUT: Final = 15.0
"""Seconds for all questions to one server."""
TIMEOUTS: Final = ("idle_in_transaction_session_timeout", "idle_session_timeout", "transaction_timeout")
"""Those that end a session that does nothing, and that are off by default. Not every version has all."""

_SETTINGS: Final = (
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "max_wal_senders",
    "authentication_timeout",
    "port",
    *TIMEOUTS,
)
_MOMENT: Final = "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US')"
"""A time as text, exact to the microsecond, whatever the session's own format is."""

_IDENTITY: Final = f"""
    SELECT pg_backend_pid() AS pid, current_setting('server_version') AS version, current_user AS role,
           {_MOMENT.format("clock_timestamp()")} AS now,
           host(inet_client_addr()) AS client, inet_client_port() AS client_port,
           pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all
"""
_ACTIVITY: Final = f"""
    SELECT a.pid, a.datname, a.usename, a.application_name, host(a.client_addr) AS client, a.client_port,
           a.backend_type, a.state, a.wait_event_type, a.wait_event, a.query, r.pid IS NOT NULL AS replicates,
           {_MOMENT.format("a.backend_start")} AS started_at, {_MOMENT.format("a.state_change")} AS state_since,
           {_MOMENT.format("a.xact_start")} AS transaction_since,
           CASE WHEN a.wait_event_type = 'Lock' THEN pg_blocking_pids(a.pid) END AS blocked_by
      FROM pg_stat_activity a LEFT JOIN pg_stat_replication r ON r.pid = a.pid
"""
_LIMITS: Final = """
    SELECT 'role' AS what, rolname AS name, rolconnlimit AS allowed FROM pg_roles
     WHERE rolconnlimit >= 0 AND rolcanlogin AND NOT rolsuper
     UNION ALL
    SELECT 'database', datname, datconnlimit FROM pg_database WHERE datconnlimit >= 0
"""
_RESCUERS: Final = """
    SELECT rolname AS name FROM pg_roles
     WHERE rolcanlogin AND rolreplication AND (rolsuper OR pg_has_role(oid, 'pg_read_all_stats', 'USAGE'))
     ORDER BY rolsuper, rolname
"""
_OVERRIDES: Final = """
    SELECT r.rolname AS role, d.datname AS database, unnest(s.setconfig) AS setting
      FROM pg_db_role_setting s
      LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """The rows as they came. `asked_at` is by our own clock."""

    asked_at: datetime
    identity: Row
    settings: Mapping[str, str]
    activity: Sequence[Row]
    limits: Sequence[Row]
    rescuers: Sequence[Row]
    overrides: Sequence[Row]


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """A transaction in which names mean the system's objects only, and no statement takes longer than we wait."""
    with deadline(connection, QUERY_TIMEOUT), connection.transaction():
        connection.execute("SET LOCAL search_path = pg_catalog")
        connection.execute("SET LOCAL statement_timeout = '10s'")
        yield


def collect(connection: Connection, endpoint: Endpoint, *, refused: str | None) -> ServerFacts:
    """The facts of the server behind `connection`.

    `refused` is how the ordinary door was shut, if it was: ``full`` or ``reserved``. Raises psycopg's errors and
    `SlowError`.
    """
    with transaction(connection):
        raw = Raw(
            asked_at=datetime.now(UTC),
            identity=connection.execute(_IDENTITY).fetchall()[0],
            settings={
                row["name"]: f"{row['setting']}"
                for row in connection.execute(
                    "SELECT name, setting FROM pg_settings WHERE name = ANY (%s)", [[*_SETTINGS]]
                )
            },
            activity=connection.execute(_ACTIVITY).fetchall(),
            limits=connection.execute(_LIMITS).fetchall(),
            rescuers=connection.execute(_RESCUERS).fetchall(),
            overrides=connection.execute(_OVERRIDES).fetchall(),
        )
    return facts_of(raw, endpoint, told_pid=connection.info.backend_pid, refused=refused)


def alive(connection: Connection, pids: Iterable[int]) -> set[int]:
    """Those of the process ids that are backends at this moment."""
    with transaction(connection):
        rows = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid = ANY (%s)", [list(pids)]).fetchall()
    return {row["pid"] for row in rows}


def facts_of(raw: Raw, endpoint: Endpoint, *, told_pid: int, refused: str | None) -> ServerFacts:
    """What the rows mean. `told_pid` is our backend as the driver was told: a pooler tells another one."""
    pid, role = raw.identity["pid"], raw.identity["role"]
    backends = tuple(_backend(row) for row in raw.activity)
    now = datetime.fromisoformat(raw.identity["now"]).replace(tzinfo=UTC)
    return ServerFacts(
        now=now,
        clock_ahead=(now - raw.asked_at).total_seconds(),
        version=raw.identity["version"].split(" ")[0],  # without what a packager adds
        endpoint=endpoint,
        own_pid=pid,
        own_client=(raw.identity["client"], raw.identity["client_port"]) if raw.identity["client"] else None,
        role=role,
        degraded=not raw.identity["sees_all"] and not all(backend.visible for backend in backends),
        through_pooler=told_pid != pid,
        is_here=_is_postgres(pid),
        capacity=_capacity(raw, backends, own_pid=pid, refused=refused),
        settings=raw.settings,
        unset=tuple(name for name in TIMEOUTS if raw.settings.get(name) == "0"),
        overridden=tuple(_overrides(raw.overrides)),
        rescuers=tuple(row["name"] for row in raw.rescuers),
        backends=backends,
    )


def _capacity(raw: Raw, backends: Iterable[Backend], *, own_pid: int, refused: str | None) -> Capacity:
    def setting(name: str) -> int:
        return int(raw.settings.get(name) or 0)

    counted = [backend for backend in backends if backend.takes_slot]
    others = [backend for backend in counted if backend.pid != own_pid]
    started = [backend for backend in others if backend.state != "starting"]
    maximum, reserves = (
        setting("max_connections"),
        setting("superuser_reserved_connections") + setting("reserved_connections"),
    )
    # Before PostgreSQL 18 a connection that has not logged in yet takes a slot and is not shown. A refusal says how
    # many slots are taken at least. One may have come free since, and is no secret login.
    hidden = {"full": maximum, "reserved": maximum - reserves}.get(refused or "", 0) - len(others)
    limits = {
        what: tuple(
            Limit(
                name=row["name"], limit=row["allowed"], used=sum(1 for backend in started if of(backend) == row["name"])
            )
            for row in raw.limits
            if row["what"] == what
        )
        for what, of in (("role", _user_of), ("database", _database_of))
    }
    return Capacity(
        max_connections=maximum,
        superuser_reserved=setting("superuser_reserved_connections"),
        reserved=setting("reserved_connections"),
        used=len(others),
        starting=len(others) - len(started),
        hidden=hidden if hidden > 1 else 0,
        walsenders=sum(1 for backend in backends if backend.kind == "walsender"),
        max_wal_senders=setting("max_wal_senders"),
        roles=limits["role"],
        databases=limits["database"],
    )


def _backend(row: Row) -> Backend:
    statement = row["query"]
    visible = row["backend_type"] is not None
    wait = ": ".join(part for part in (row["wait_event_type"], row["wait_event"]) if part)
    return Backend(
        pid=row["pid"],
        kind=_kind_of(row),
        visible=visible,
        database=row["datname"],
        user=row["usename"],
        application=row["application_name"] or "",
        client=row["client"],
        client_port=row["client_port"],
        started_at=_moment(row["started_at"]),
        state=row["state"],
        state_since=_moment(row["state_since"]),
        transaction_since=_moment(row["transaction_since"]),
        wait=wait or None,
        statement=redact.statement(statement) if visible and statement else None,
        blocked_by=tuple(row["blocked_by"] or ()),
    )


def _kind_of(row: Row) -> str:
    """``backend_type``. Where that is hidden: a client has a database and a user, unless it replicates."""
    if row["backend_type"] is not None:
        return str(row["backend_type"])
    if row["replicates"]:
        return "walsender"
    return "client backend" if row["datname"] is not None and row["usename"] is not None else "unknown"


def _overrides(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        name, _, value = row["setting"].partition("=")
        if name in TIMEOUTS:
            whose = [f"role {row['role']}"] if row["role"] else []
            whose += [f"database {row['database']}"] if row["database"] else []
            yield f"{name} = {value} for {' in '.join(whose)}"


def _user_of(backend: Backend) -> str | None:
    return backend.user


def _database_of(backend: Backend) -> str | None:
    return backend.database


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text is not None else None


def _is_postgres(pid: int) -> bool:
    """Whether the process of this number on this host is PostgreSQL's, so that we share its process ids."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip() in ("postgres", "postmaster")
    except OSError:
        return False
