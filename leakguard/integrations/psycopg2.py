"""psycopg2: direct connections, and what every connection below a pool tells.

``psycopg2.connect()`` looks up ``psycopg2._connect`` each time, also where it was imported by name before, so that is
patched. The connection class is a C type: through `connection_factory` a subclass of it is handed out, or of the class
that the application asked for; through `cursor_factory` likewise.
"""

from __future__ import annotations

from typing import Any, Final

from leakguard.integrations.base import Runtime, Version
from leakguard.integrations.direct import Direct, Method, closing, reading, running, using
from leakguard.integrations.drivers import PSYCOPG2
from leakguard.integrations.subclasses import Subclasses
from leakguard.patching import Patches, dressed

_USES: Final = (
    "commit",
    "lobject",
    "poll",
    "reset",
    "rollback",
    "tpc_begin",
    "tpc_commit",
    "tpc_prepare",
    "tpc_recover",
    "tpc_rollback",
)  # not cancel(): who cancels a statement is not who runs it
_RUNS: Final = ("callproc", "copy_expert", "copy_from", "copy_to", "execute", "executemany")
_READS: Final = ("__next__", "fetchall", "fetchmany", "fetchone", "scroll")


class Psycopg2Integration:
    """Direct connections of psycopg2."""

    module = "psycopg2"
    versions = Version(lowest=(2, 9), below=(3,))

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the one function that opens connections."""
        import psycopg2
        from psycopg2 import extensions

        direct = Direct(runtime, PSYCOPG2)
        runs = {name: running(getattr(extensions.cursor, name), direct, _connection_of) for name in _RUNS}
        reads = {name: reading(getattr(extensions.cursor, name), direct, _connection_of) for name in _READS}
        # Only a cursor with a name asks the server for its rows; those of the others are here already.
        cursors = Subclasses(extensions.cursor, runs), Subclasses(extensions.cursor, {**runs, **reads})
        connections = Subclasses(
            extensions.connection,
            {
                "cursor": _cursor(extensions.connection.cursor, extensions.cursor, *cursors),
                **{name: using(getattr(extensions.connection, name), direct) for name in _USES},
            },
            {"close": lambda original: closing(original, direct)},
        )
        patches.replace(
            psycopg2, "_connect", lambda original: _connect(original, direct, connections, extensions.connection)
        )


def _connection_of(cursor: Any) -> object:
    return cursor.connection


def _cursor(original: Method, default: type, unnamed: Subclasses, named: Subclasses) -> Method:
    def cursor(self: Any, name: Any = None, cursor_factory: Any = None, *args: Any, **kwargs: Any) -> Any:
        factory = cursor_factory if cursor_factory is not None else self.cursor_factory
        guarded = (unnamed if name is None else named).of(default if factory is None else factory)
        return original(self, name, guarded, *args, **kwargs)

    return dressed(cursor, original)


def _connect(original: Method, direct: Direct, connections: Subclasses, default: type) -> Method:
    def _connect(dsn: Any, connection_factory: Any = None, *args: Any, **kwargs: Any) -> Any:
        direct.begin()
        try:
            connection = original(dsn, connections.of(connection_factory or default), *args, **kwargs)
        except BaseException as error:
            direct.refused(error)
            raise
        if connections.has_made(connection):
            direct.opened(connection)
        return connection

    return dressed(_connect, original)
