"""Advice from the source: what is wrong with the very line that acquired, and what to write there instead.

The file is parsed when a report is made, the acquiring call and its function are found in it, and only what follows
from the syntax tree is said. A connection that leaves the function (stored, passed on, captured) may be given back
elsewhere: then nothing is certain, and there is no advice. Nor is there any for a file that has changed meanwhile, as
far as that shows: the call must stand in that line, in a function of that name.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from leakguard import redact
from leakguard.cures.connections import Connections
from leakguard.cures.model import Cure, CureKind
from leakguard.cures.places import Place
from leakguard.cures.pools import for_pool
from leakguard.cures.source import Source, parsed

__all__ = ["Cure", "CureKind", "cure"]

_ACQUIRES: Final[dict[str, frozenset[str]]] = {
    "psycopg": frozenset({"connect"}),
    "psycopg2": frozenset({"connect"}),
    "sqlite3": frozenset({"connect"}),
    "asyncpg": frozenset({"connect"}),
    "psycopg_pool": frozenset({"getconn"}),
    "psycopg2_pool": frozenset({"getconn"}),
    "asyncpg_pool": frozenset({"acquire"}),
    "sqlalchemy": frozenset({"connect", "raw_connection"}),
}
_POOLS: Final[dict[str, frozenset[str]]] = {
    "sqlalchemy": frozenset({"create_engine", "create_async_engine"}),
    "psycopg_pool": frozenset(
        {"ConnectionPool", "NullConnectionPool", "AsyncConnectionPool", "AsyncNullConnectionPool"}
    ),
}


def cure(
    file: str, line: int, function_name: str, library: str, operation: str, *, code: str | None = None
) -> Cure | None:
    """Advice for what was acquired (or, for a pool, created) at this place; None where nothing is certain.

    `operation` is the name of what was called, where that is known; it settles which of two calls in a line is meant.
    `code` is the line as a report has it: where the file has another one by now, there is no advice. Reads the file;
    never raises for what it finds there. No password of the source is in the result. Thread-safe.
    """
    try:
        status = os.stat(file)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):  # a report may come from anywhere, and a device has no end
            return None
        source = parsed(file, status.st_mtime_ns, status.st_size)
        if source is None or (code is not None and redact.code_line(source.line(line)) != code):
            return None
        return _advice(source, Place(source, line, function_name, operation), library)
    except (OSError, ValueError, RecursionError):
        return None


def _advice(source: Source, place: Place, library: str) -> Cure | None:
    call = place.call(_POOLS.get(library, frozenset()))
    if call is not None:
        return for_pool(source, library, call)
    call = place.call(_ACQUIRES.get(library, frozenset()))
    if call is None and library == "sqlalchemy":
        call = place.session()
    return Connections(source, library).advice(call) if call is not None else None
