"""sqlite3: direct connections.

Its classes are C types that can be neither patched nor referred to weakly, so ``connect()`` is patched, and hands out a
subclass through the parameter `factory`. It is patched under every name that it has been imported by already, because
there is no deeper point to see it from. The audit event ``sqlite3.connect/handle`` is none: an audit hook cannot be
taken back, every audit event of the process would pay for it, and the finished connection that it shows can be watched
no better than before: nothing would tell of its end.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from leakguard.integrations.base import Runtime
from leakguard.integrations.direct import Direct, Method, closing, reading, running, using
from leakguard.integrations.drivers import SQLITE3
from leakguard.integrations.subclasses import Subclasses
from leakguard.patching import Patches, dressed

_USES: Final = ("backup", "blobopen", "commit", "rollback")
_RUNS: Final = ("execute", "executemany", "executescript")
_READS: Final = ("fetchall", "fetchmany")  # not row by row: that would cost more than the rows

_FACTORY_AT: Final = 5
_POSITIONAL: Final = ("timeout", "detect_types", "isolation_level", "check_same_thread")
"""The parameters of ``connect()`` between the first one and `factory`."""
_DEPRECATED: Final = (
    "Passing more than 1 positional argument to {} is deprecated. Parameters 'timeout', 'detect_types', "
    "'isolation_level', 'check_same_thread', 'factory', 'cached_statements' and 'uri' will become keyword-only "
    "parameters in Python 3.15."
)
_WARNS: Final = 0x030D0000
_FORBIDS: Final = 0x030F0000


class Sqlite3Integration:
    """Direct connections of sqlite3, of any version: it comes with Python."""

    module = "sqlite3"
    versions = None

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch ``connect`` wherever it is to be found."""
        import sqlite3

        direct = Direct(runtime, SQLITE3)
        cursors = Subclasses(
            sqlite3.Cursor,
            {
                **{name: running(getattr(sqlite3.Cursor, name), direct, _connection_of) for name in _RUNS},
                **{name: reading(getattr(sqlite3.Cursor, name), direct, _connection_of) for name in _READS},
            },
        )
        connections = Subclasses(
            sqlite3.Connection,
            {
                "cursor": _cursor(sqlite3.Connection.cursor, cursors),
                **{name: using(getattr(sqlite3.Connection, name), direct) for name in _USES},
                **{name: _shortcut(getattr(sqlite3.Connection, name), cursors) for name in _RUNS},
            },
            {"close": lambda original: closing(original, direct)},
        )
        original = sqlite3.connect
        connect = _connect(original, direct, connections, sqlite3.Connection)
        for module, name in _names_of(original):
            patches.replace(module, name, lambda _original: connect)


def _names_of(function: object) -> Iterator[tuple[ModuleType, str]]:
    """Where a function is a global variable: in its own modules, and in those that have imported it by name."""
    for module in list(sys.modules.values()):
        try:
            # Not `vars()`: a module that is still to be loaded must not be loaded by that.
            names: dict[str, object] = ModuleType.__getattribute__(module, "__dict__")
        except Exception:  # something else that poses as a module
            continue
        for name in [name for name, value in list(names.items()) if value is function]:
            yield module, name


def _connection_of(cursor: Any) -> object:
    return cursor.connection


def _cursor(original: Method, cursors: Subclasses) -> Method:
    import sqlite3

    def cursor(self: Any, factory: Any = sqlite3.Cursor) -> Any:
        return original(self, cursors.of(factory))

    return dressed(cursor, original)


def _shortcut(original: Method, cursors: Subclasses) -> Method:
    """``Connection.execute()`` and the like, which make a plain cursor, whatever ``cursor()`` would make."""
    import sqlite3

    name, make, cls = original.__name__, sqlite3.Connection.cursor, cursors.of(sqlite3.Cursor)

    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(make(self, cls), name)(*args, **kwargs)

    return dressed(execute, original)


def _connect(original: Method, direct: Direct, connections: Subclasses, default: type) -> Method:
    def connect(*args: Any, **kwargs: Any) -> Any:
        direct.begin()
        if len(args) > _FACTORY_AT:
            args = (*args[:_FACTORY_AT], connections.of(args[_FACTORY_AT]), *args[_FACTORY_AT + 1 :])
        elif "factory" in kwargs:
            kwargs["factory"] = connections.of(kwargs["factory"])
        else:
            args, kwargs = _by_name(args, kwargs)
            kwargs["factory"] = connections.of(default)
        connection = original(*args, **kwargs)
        if connections.has_made(connection):
            direct.opened(connection)
        return connection

    return dressed(connect, original)


def _by_name(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with no more than the first by its position, and Python's own warning about the others.

    Python blames the line that calls ``connect()``; from below our own function it would blame us. Arguments that do
    not fit stay as they are, for sqlite3 to say so.
    """
    by_name = dict(zip(_POSITIONAL, args[1:], strict=False))
    if not by_name or by_name.keys() & kwargs.keys() or sys.hexversion >= _FORBIDS:
        return args, kwargs
    if sys.hexversion >= _WARNS:
        for function in ("sqlite3.connect()", "_sqlite3.Connection()"):
            warnings.warn(_DEPRECATED.format(function), DeprecationWarning, stacklevel=3)
    return args[:1], {**by_name, **kwargs}
