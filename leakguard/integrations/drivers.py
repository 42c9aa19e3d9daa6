"""What a connection object of each driver can tell about itself, locally and from any thread."""

from __future__ import annotations

import os
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

from leakguard.model import Server, State
from leakguard.register.records import Driver, Wire
from leakguard.register.stacks import FrameRules, Place
from leakguard.register.tracker import Tracker

if TYPE_CHECKING:
    import sqlite3

    import asyncpg
    from psycopg import BaseConnection

_RUNNERS: Final = frozenset({"anyio", "billiard", "celery", "eventlet", "gevent", "joblib", "loky", "multiprocess"})
"""Packages whose pools are of processes, threads or greenlets."""

# PQtransactionStatus, the same numbers in psycopg 3 and psycopg2.
_STATES: Final[dict[int, State]] = {0: "idle", 1: "active", 2: "in_transaction", 3: "in_error"}


class PsycopgDriver:
    """psycopg 3. Every answer is local to libpq."""

    library = "psycopg"
    embedded = False

    def state(self, connection: object) -> State:
        """The transaction status; libpq says UNKNOWN for a connection that is closed or broken."""
        pgconn = cast("BaseConnection[object]", connection).pgconn
        return _STATES.get(int(pgconn.transaction_status), "closed")

    def server(self, connection: object) -> Server | None:
        """To be read while the connection is open: a closed one raises at every question."""
        pgconn = cast("BaseConnection[object]", connection).pgconn
        return Server(
            host=_text(pgconn.host),
            port=int(pgconn.port) if pgconn.port else None,
            dbname=_text(pgconn.db),
            user=_text(pgconn.user),
            backend_pid=pgconn.backend_pid or None,
            client_port=_client_port(pgconn.socket),
        )


class AsyncpgDriver:
    """asyncpg. Where it is connected to is not public; what is missing is told as unknown."""

    library = "asyncpg"
    embedded = False

    def state(self, connection: object) -> State:
        """In a transaction or not; a running statement is seen by who runs it."""
        asked = cast("asyncpg.Connection[Any]", connection)
        if asked.is_closed():
            return "closed"
        return "in_transaction" if asked.is_in_transaction() else "idle"

    def server(self, connection: object) -> Server | None:
        """Address, database and user from the connection's own parameters."""
        address = getattr(connection, "_addr", None)
        parameters = getattr(connection, "_params", None)
        transport = getattr(connection, "_transport", None)
        own = transport.get_extra_info("sockname") if transport is not None else None
        return Server(
            host=address[0] if isinstance(address, tuple) else address,
            port=address[1] if isinstance(address, tuple) else None,
            dbname=getattr(parameters, "database", None),
            user=getattr(parameters, "user", None),
            backend_pid=cast("asyncpg.Connection[Any]", connection).get_server_pid(),
            client_port=own[1] if isinstance(own, tuple) else None,
        )

    def is_open(self, connection: object) -> bool:
        """As far as the loop has noticed."""
        return not cast("asyncpg.Connection[Any]", connection).is_closed()


class Psycopg2Driver:
    """psycopg2. Every answer is local to libpq, and none waits for a statement that runs in another thread."""

    library = "psycopg2"
    embedded = False

    def state(self, connection: object) -> State:
        """The transaction status, also of a statement that is running."""
        return _STATES.get(int(cast("Any", connection).get_transaction_status()), "closed")

    def server(self, connection: object) -> Server | None:
        """None while an asynchronous connection is still being established."""
        info = cast("Any", connection).info
        if not info.backend_pid:
            return None
        return Server(
            host=info.host,
            port=info.port,
            dbname=info.dbname,
            user=info.user,
            backend_pid=info.backend_pid,
            client_port=_client_port(info.socket),
        )

    def is_open(self, connection: object) -> bool:
        """``closed`` is 2 where the server hung up, as far as the last statement has shown it."""
        return not cast("Any", connection).closed


class Sqlite3Driver:
    """sqlite3, which lives in this process and has no server."""

    library = "sqlite3"
    embedded = True

    def state(self, connection: object) -> State:
        """May be asked from any thread, unlike nearly everything else of sqlite3."""
        return "in_transaction" if cast("sqlite3.Connection", connection).in_transaction else "idle"

    def server(self, connection: object) -> None:
        """There is none."""
        return

    def is_open(self, connection: object) -> bool:
        """No attribute says so, but every question to a closed connection is an error."""
        try:
            return cast("sqlite3.Connection", connection).total_changes >= 0
        except Exception:  # sqlite3.ProgrammingError, without the need to import it
            return False


class OtherDriver:
    """What PEP 249 and common practice offer: for a driver that is known through SQLAlchemy or `DBAPI` only."""

    library = "dbapi"
    embedded = False

    def state(self, connection: object) -> State:
        """From ``in_transaction`` (pg8000 keeps it to itself) or the status bits of MySQL's protocol (PyMySQL)."""
        for name in ("in_transaction", "_in_transaction"):
            in_transaction = getattr(connection, name, None)
            if isinstance(in_transaction, bool):
                return "in_transaction" if in_transaction else "idle"
        status = getattr(connection, "server_status", None)
        if isinstance(status, int):
            return "in_transaction" if status & _MYSQL_IN_TRANSACTION else "idle"
        return "unknown"

    def server(self, connection: object) -> Server | None:
        """From attributes of the usual names; None where there is not even a host."""
        host = _plain(connection, "host")
        if host is None:
            return None
        port = getattr(connection, "port", None)
        return Server(
            host=host,
            port=port if isinstance(port, int) else None,
            dbname=_plain(connection, "dbname", "database", "db"),
            user=_plain(connection, "user"),
            backend_pid=None,
            client_port=None,
        )

    def is_open(self, connection: object) -> bool | None:
        """From ``closed``, or MySQL's ``open``; None where the driver does not say."""
        closed = getattr(connection, "closed", None)
        if isinstance(closed, int):  # also a bool
            return not closed
        still_open = getattr(connection, "open", None)
        return still_open if isinstance(still_open, bool) else None


_MYSQL_IN_TRANSACTION: Final = 1

PSYCOPG: Final = PsycopgDriver()
PSYCOPG2: Final = Psycopg2Driver()
SQLITE3: Final = Sqlite3Driver()
ASYNCPG: Final = AsyncpgDriver()
_BY_MODULE: Final[dict[str, Driver]] = {
    "psycopg": PSYCOPG,
    "psycopg2": PSYCOPG2,
    "asyncpg": ASYNCPG,
    "sqlite3": SQLITE3,
}
_OTHER: Final = OtherDriver()


def driver_of(connection: object) -> Driver:
    """The driver of a connection object, by the package that defines its class or a base of it."""
    for base in type(connection).__mro__:
        driver = _BY_MODULE.get(base.__module__.partition(".")[0])
        if driver is not None:
            return driver
    return _OTHER


def beneath(connection: object) -> object:
    """The connection itself below the proxy that asyncpg's pools hand out, which knows no weak references."""
    return getattr(connection, "_con", connection) if type(connection).__module__ == "asyncpg.pool" else connection


def wire_below(tracker: Tracker, connection: object) -> Wire:
    """The wire of a connection, also of one that was opened before leakguard was installed."""
    connection = beneath(connection)
    if type(connection).__module__.startswith("aiosqlite"):
        # A front, with a thread of its own behind it, in which the connection to the database lives.
        connection = getattr(connection, "_conn", connection)
    wire = tracker.wire_of(connection)
    if wire is None:
        wire = tracker.add_wire(connection, driver_of(connection))
        wire.tells = wire.driver is PSYCOPG  # whose classes are patched: the age of a connection does not matter
        try:
            wire.server = wire.driver.server(connection)
        except Exception:  # a driver, or a test's double of one, that cannot tell: then it is unknown
            wire.server = None
    return wire


def opened_by_pool(rules: FrameRules) -> bool:
    """Whether a pool is creating the connection that the caller's caller is about to hand out: SQLAlchemy's, through a
    `creator` of the application perhaps; or one of a package that has no integration, such as peewee's."""
    frame: FrameType | None = sys._getframe(2)
    near = True  # no frame of the application, or of what runs it, is between here and the driver
    for _ in range(60):
        if frame is None:
            return False
        code, module = frame.f_code, frame.f_globals.get("__name__")
        if code.co_name == "_invoke_creator" or (code.co_name == "__connect" and module == "sqlalchemy.pool.base"):
            return True
        if near and isinstance(module, str):
            place = rules.place(code.co_filename)
            near = place is not Place.APPLICATION and module.partition(".")[0] not in _RUNNERS
            if near and place is Place.INSTALLED and "pool" in module.lower():
                return True
        frame = frame.f_back
    return False


def _plain(connection: object, *names: str) -> str | None:
    """The first of these attributes that is a text."""
    for name in names:
        value = getattr(connection, name, None)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, str) and value:
            return value
    return None


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if value else None


def _client_port(descriptor: int) -> int | None:
    # A duplicate: closing a socket object made of libpq's own descriptor would close libpq's connection.
    with socket.socket(fileno=os.dup(descriptor)) as own:
        name = own.getsockname()
    return name[1] if isinstance(name, tuple) else None  # a Unix socket's name is a string, and no port
