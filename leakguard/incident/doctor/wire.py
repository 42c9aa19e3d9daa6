"""A connection that works through every door, and how long it may keep us waiting.

Simple query protocol, bound on the client's side: a walsender and PgBouncer's console know no other.
"""

from __future__ import annotations

import codecs
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from leakguard.errors import LeakguardError
from leakguard.incident.doctor.dsn import DsnError, Target
from leakguard.redact import message

if TYPE_CHECKING:
    import psycopg
    from psycopg.rows import DictRow

    Connection = psycopg.Connection[DictRow]

CONNECT_TIMEOUT: Final = 10
"""Seconds for one door; libpq's smallest is 2. The DSN's or the environment's own ``connect_timeout`` wins."""


class SlowError(LeakguardError):
    """A question was not answered in time."""


def connect(target: Target) -> Connection:
    """One connection that works through every door. Raises psycopg's errors, and `DsnError`."""
    import psycopg
    from psycopg.rows import dict_row

    parameters: dict[str, str] = {"application_name": "leakguard doctor", "client_encoding": "SQL_ASCII"}
    if "PGCONNECT_TIMEOUT" not in os.environ:
        parameters["connect_timeout"] = str(CONNECT_TIMEOUT)
    parameters |= {name: value for name, value in target.parameters.items() if name not in parameters}
    if "connect_timeout" in target.parameters:
        parameters["connect_timeout"] = target.parameters["connect_timeout"]
    try:
        connection = psycopg.connect(
            **parameters,  # type: ignore[arg-type]  # names that only psycopg's own parameters have are no libpq names
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=psycopg.ClientCursor,
            row_factory=dict_row,
        )
    except psycopg.ProgrammingError as error:
        raise DsnError(f"psycopg does not accept {target.source}: {said(error, target)}") from None
    except psycopg.OperationalError as error:
        pgconn = error.pgconn
        if pgconn is not None and not pgconn.hostaddr and not pgconn.host.startswith((b"/", b"@")):
            # It never left this machine: a parameter has a value that libpq does not know.
            raise DsnError(f"libpq does not accept {target.source}: {said(error, target)}") from None
        raise
    _read_leniently(connection)
    return connection


def _read_leniently(connection: Connection) -> None:
    """Take texts as they come. A statement of another database is in the encoding of that database, so it may be no
    valid text in ours, and one such statement must not hide all the others."""
    from psycopg.adapt import Loader

    encoding = (connection.info.parameter_status("server_encoding") or "UTF8").replace("WIN", "cp")
    try:
        codecs.lookup(encoding)
    except LookupError:
        encoding = "utf-8"

    class Text(Loader):
        def load(self, data: Any) -> str:
            return bytes(data).decode(encoding, "replace")

    for name in ("text", "name", "varchar", "bpchar"):
        connection.adapters.register_loader(name, Text)


@contextmanager
def deadline(connection: Connection, seconds: float) -> Iterator[None]:
    """Give up on what runs inside after so many seconds: `SlowError`. The connection is of no use afterwards."""
    import psycopg

    late = threading.Event()

    def hang_up() -> None:
        late.set()
        # Not close(): libpq may be reading in the other thread. A shut-down socket reads as the end.
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as own:
            own.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.OperationalError:
        if late.is_set():
            raise SlowError(f"no answer within {seconds:g} s") from None
        raise
    finally:
        timer.cancel()
        timer.join()


def said(error: Exception, target: Target) -> str:
    """What libpq or a server said, on one line. The password is in none of their texts that we know of; be sure."""
    import psycopg

    pgconn = error.pgconn if isinstance(error, psycopg.Error) else None
    known = pgconn.password.decode(errors="replace") if pgconn is not None else ""
    text = str(error).split("\nMultiple connection attempts failed")[0]
    for password in (known, target.parameters.get("password"), os.environ.get("PGPASSWORD")):
        if password:
            text = re.sub(rf"(?<!\w){re.escape(password)}(?!\w)", "***", text)
    return message(text)
