"""What a connection object of each driver can tell about itself, locally and from any thread."""

from __future__ import annotations

import os
import socket
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

from leakguard.model import Server, State
from leakguard.records import Driver, Wire
from leakguard.tracker import Tracker

if TYPE_CHECKING:
    import asyncpg
    from psycopg import BaseConnection

# PQtransactionStatus, the same numbers in psycopg 3 and psycopg2.
_STATES: Final[dict[int, State]] = {0: "idle", 1: "active", 2: "in_transaction", 3: "in_error"}


class PsycopgDriver:
    """psycopg 3. Every answer is local to libpq."""

    library = "psycopg"

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


class OtherDriver:
    """A driver that is only known through SQLAlchemy: what PEP 249 and common practice offer."""

    library = "dbapi"

    def state(self, connection: object) -> State:
        """psycopg2 knows its transaction status, sqlite3 and others whether they are in a transaction."""
        status = getattr(connection, "get_transaction_status", None)
        if callable(status):
            return _STATES.get(int(status()), "closed")
        in_transaction = getattr(connection, "in_transaction", None)
        if isinstance(in_transaction, bool):
            return "in_transaction" if in_transaction else "idle"
        return "unknown"

    def server(self, connection: object) -> Server | None:
        """Only psycopg2's ``info`` has it."""
        info = getattr(connection, "info", None)
        if info is None or not hasattr(info, "backend_pid"):
            return None
        return Server(
            host=info.host,
            port=info.port,
            dbname=info.dbname,
            user=info.user,
            backend_pid=info.backend_pid or None,
            client_port=_client_port(info.socket),
        )


PSYCOPG: Final = PsycopgDriver()
_BY_MODULE: Final[dict[str, Driver]] = {"psycopg": PSYCOPG, "asyncpg": AsyncpgDriver()}
_OTHER: Final = OtherDriver()


def driver_of(connection: object) -> Driver:
    """The driver of a connection object, by the package that defines its class or a base of it."""
    for base in type(connection).__mro__:
        driver = _BY_MODULE.get(base.__module__.partition(".")[0])
        if driver is not None:
            return driver
    return _OTHER


def wire_below(tracker: Tracker, connection: object) -> Wire:
    """The wire of a connection, also of one that was opened before leakguard was installed."""
    wire = tracker.wire_of(connection)
    if wire is None:
        wire = tracker.add_wire(connection, driver_of(connection))
        try:
            wire.server = wire.driver.server(connection)
        except Exception:  # a driver, or a test's double of one, that cannot tell: then it is unknown
            wire.server = None
    return wire


def opened_by_pool() -> bool:
    """Whether SQLAlchemy's pool is creating the connection that the caller's caller is about to hand out, through a
    `creator` of the application perhaps."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(60):
        if frame is None:
            return False
        if frame.f_code.co_name == "_invoke_creator" or (
            frame.f_code.co_name == "__connect" and frame.f_globals.get("__name__") == "sqlalchemy.pool.base"
        ):
            return True
        frame = frame.f_back
    return False


def _text(value: bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if value else None


def _client_port(descriptor: int) -> int | None:
    # A duplicate: closing a socket object made of libpq's own descriptor would close libpq's connection.
    with socket.socket(fileno=os.dup(descriptor)) as own:
        name = own.getsockname()
    return name[1] if isinstance(name, tuple) else None  # a Unix socket's name is a string, and no port
