"""PgBouncer's side, from its admin console: which client has which server connection.

The console's columns differ from version to version, so they are read by name, and one that is missing is said. The
two ends of a pooled connection are matched in one answer of ``SHOW SOCKETS``, which has both. The process id that a
driver is told through PgBouncer is a random number, never a backend.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from leakguard.incident.doctor.dsn import Target, endpoint_of
from leakguard.incident.doctor.model import BouncerFacts, BouncerPool, BouncerSocket
from leakguard.incident.doctor.wire import SlowError, connect, deadline, said
from leakguard.redact import message

if TYPE_CHECKING:
    from leakguard.incident.doctor.wire import Connection

Row = Mapping[str, Any]

CONSOLE: Final = "pgbouncer"
"""The database that is the console."""
_TIMEOUT: Final = 5.0
_SOCKET_COLUMNS: Final = ("type", "ptr", "link", "addr", "port", "local_addr", "local_port", "remote_pid")


class ConsoleError(Exception):
    """The console cannot be asked; the text says why, on one line."""


def console_of(target: Target) -> Target:
    """The console of the pooler at this address."""
    return target.changed(dbname=CONSOLE)


def servers_behind(target: Target) -> Sequence[tuple[str | None, int]]:
    """Where the pooler at `target` finds the server of its database; nothing if its console does not say."""
    try:
        return collect(console_of(target), endpoint_of(target.parameters).database).servers
    except ConsoleError:
        return ()


def collect(target: Target, database: str | None = None) -> BouncerFacts:
    """What the console at `target` tells; `servers` are those of `database`, or all. Raises `ConsoleError`."""
    import psycopg

    try:
        with connect(target) as connection, deadline(connection, _TIMEOUT):
            return _ask(connection, target, database)
    except SlowError as error:
        raise ConsoleError(str(error)) from None
    except psycopg.Error as error:
        raise ConsoleError(said(error, target)) from None


def _ask(connection: Connection, target: Target, database: str | None) -> BouncerFacts:
    if not (connection.info.parameter_status("server_version") or "").endswith("/bouncer"):
        raise ConsoleError("what answers there is no console of PgBouncer")
    missing: list[str] = []
    sockets = _table(connection, "SOCKETS", _SOCKET_COLUMNS, missing)
    pools = _table(connection, "POOLS", ("database", "user", "cl_active", "cl_waiting", "sv_active"), missing)
    databases = _table(connection, "DATABASES", ("name", "host", "port", "pool_size"), missing)
    config = {str(row.get("key")): row.get("value") for row in _table(connection, "CONFIG", ("key", "value"), missing)}
    sizes = {_text(row.get("name")): _number(row.get("pool_size")) for row in databases}
    return BouncerFacts(
        version=connection.info.parameter_status("server_version") or "unknown",
        endpoint=endpoint_of(target.parameters),
        max_clients=_number(config.get("max_client_conn")),
        pools=tuple(_pool(row, sizes) for row in pools if row.get("database") != CONSOLE),
        sockets=tuple(
            socket_of(row) for row in sockets if row.get("database") != CONSOLE and row.get("type") in ("C", "S")
        ),
        servers=tuple(_servers(databases, database)),
        missing=tuple(missing),
    )


def _table(connection: Connection, name: str, columns: Iterable[str], missing: list[str]) -> list[Row]:
    """One SHOW. A table that this role may not see, or this version does not have, is empty, and said to be missing."""
    import psycopg

    try:
        cursor = connection.execute(f"SHOW {name}")
        rows = cursor.fetchall()
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        missing.append(f"SHOW {name} ({message(str(error))})")
        return []
    missing += absent(name, columns, {column.name for column in cursor.description or ()})
    return list(rows)


def absent(table: str, columns: Iterable[str], described: Container[str]) -> list[str]:
    """The columns that this version's table does not have, in words."""
    return [f"{column} of SHOW {table}" for column in columns if column not in described]


def _pool(row: Row, sizes: Mapping[str | None, int | None]) -> BouncerPool:
    def count(*names: str) -> int:
        return sum(_number(row.get(name)) or 0 for name in names)

    return BouncerPool(
        database=_text(row.get("database")) or "",
        user=_text(row.get("user")) or "",
        mode=_text(row.get("pool_mode")),
        size=sizes.get(_text(row.get("database"))),
        active=count("sv_active"),
        idle=count("sv_idle", "sv_used", "sv_tested", "sv_login"),
        clients=count("cl_active"),
        waiting=count("cl_waiting"),
        longest_wait=count("maxwait") + count("maxwait_us") / 1e6,
    )


def socket_of(row: Row) -> BouncerSocket:
    """A row of ``SHOW SOCKETS``; what is not there is unknown."""
    return BouncerSocket(
        kind="C" if row["type"] == "C" else "S",
        key=_text(row.get("ptr")) or "",
        link=_text(row.get("link")) or "",
        user=_text(row.get("user")),
        database=_text(row.get("database")),
        state=_text(row.get("state")) or "",
        address=_text(row.get("addr")),
        port=_number(row.get("port")),
        local_address=_text(row.get("local_addr")),
        local_port=_number(row.get("local_port")),
        remote_pid=_number(row.get("remote_pid")) or None,
    )


def _servers(databases: Iterable[Row], database: str | None) -> Iterable[tuple[str | None, int]]:
    rows = [row for row in databases if row.get("name") != CONSOLE]
    named = [row for row in rows if row.get("name") == database]  # one that `*` stands for is listed once it was used
    return dict.fromkeys((_text(row.get("host")), _number(row.get("port")) or 5432) for row in named or rows)


def _text(value: object) -> str | None:
    return str(value) if value is not None else None


def _number(value: object) -> int | None:
    """Numbers come as numbers or as texts, depending on the version."""
    try:
        return int(str(value))
    except ValueError:
        return None
