"""The generic integration: any driver of PEP 249 whose connection class is written in Python.

::

    leakguard.install(integrations=["pymysql"])

is all that most drivers need. What differs from driver to driver is an argument or, in a subclass, an attribute of
`DBAPI`; a subclass may be offered to everybody as an entry point of the group ``leakguard.integrations``.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from leakguard.errors import SettingsError, UnsupportedError
from leakguard.integrations.base import Runtime, Version
from leakguard.integrations.direct import Direct, Method, closing, opening, running, using
from leakguard.integrations.drivers import OtherDriver
from leakguard.model import Server, State
from leakguard.patching import Patches, dressed
from leakguard.register.stacks import know_driver

__all__ = ["DBAPI", "Server", "State", "Version"]

_RUNS: Final = ("execute", "executemany", "callproc")


class DBAPI(OtherDriver):
    """Watches the direct connections of one driver. Arguments and attributes:

    - `module`: the module whose import brings the driver in, such as ``"pymysql"``.
    - `library`: what reports call it; by default the first part of `module`.
    - `connection`: the class of its connections; by default ``Connection`` of `module`. Its methods are patched, so it
      does not matter how it was imported, and subclasses are watched too.
    - `opens`: the method of that class that opens the connection; by default ``__init__``.
    - `versions`: the versions of the driver that are watched, as a `Version`; by default any.
    - `uses`: methods of the connection, besides ``execute()`` and the like, that talk to the server.
    - `embedded`: true for a database that lives in the process.

    A subclass may also override `state()`, `server()` and `is_open()`, which answer without a round trip.
    """

    module: str = ""
    library: str = ""
    connection: str = ""
    opens: str = "__init__"
    versions: Version | None = None
    uses: tuple[str, ...] = (
        "begin",
        "commit",
        "ping",
        "rollback",
        "tpc_begin",
        "tpc_commit",
        "tpc_prepare",
        "tpc_recover",
        "tpc_rollback",
    )
    embedded: bool = False

    def __init__(
        self,
        module: str = "",
        *,
        library: str = "",
        connection: str = "",
        opens: str = "",
        versions: Version | None = None,
    ) -> None:
        """Raises SettingsError where no module is named, neither here nor by the class."""
        self.module = module or self.module
        if not self.module:
            raise SettingsError(f'leakguard: {type(self).__name__}() needs the name of a module, such as "pymysql"')
        self.library = library or self.library or self.module.partition(".")[0]
        self.connection = connection or self.connection or f"{self.module}.Connection"
        self.opens = opens or self.opens
        self.versions = versions or self.versions

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.module!r})"

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch the connection class. Raises UnsupportedError where that cannot be done."""
        cls = self._class()
        know_driver(self.module.partition(".")[0], runtime.tracker.recorder.rules)
        direct = Direct(runtime, self)
        cursors = _Cursors(runtime, direct, patches, self.library)
        try:
            patches.replace(cls, self.opens, lambda original: opening(original, direct))
            patches.replace(cls, "close", lambda original: closing(original, direct))
            patches.replace(cls, "cursor", cursors.making)
            for name in filter(lambda name: hasattr(cls, name), self.uses):
                patches.replace(cls, name, lambda original: using(original, direct))
            for name in filter(lambda name: hasattr(cls, name), _RUNS):
                patches.replace(cls, name, lambda original: running(original, direct, _itself))
        except (AttributeError, TypeError) as error:
            raise UnsupportedError(
                f"leakguard cannot watch {self.module}, because it cannot patch {self.connection}: {error}. A class "
                "that is written in C needs an integration of its own."
            ) from error

    def _class(self) -> type:
        """The class of the driver's connections."""
        home, _, name = self.connection.rpartition(".")
        if home not in sys.modules:
            from importlib import import_module

            try:
                import_module(home)
            except ImportError as error:
                raise self._unknown_class() from error
        cls = getattr(sys.modules[home], name, None)
        if not isinstance(cls, type):
            raise self._unknown_class()
        return cls

    def _unknown_class(self) -> UnsupportedError:
        return UnsupportedError(
            f"leakguard cannot watch {self.module}: there is no class {self.connection}. Say which class its "
            f'connections are of: DBAPI("{self.module}", connection="package.module.Class")'
        )


class _Cursors:
    """Patches the classes of a driver's cursors, each when the first of them is made."""

    def __init__(self, runtime: Runtime, direct: Direct, patches: Patches, library: str) -> None:
        self._runtime = runtime
        self._direct = direct
        self._patches: Patches | None = patches
        self._library = library
        self._known: set[type] = set()
        self._patched: set[tuple[type, str]] = set()
        patches.on_undo(self._stop)

    def _stop(self) -> None:
        self._patches = None

    def making(self, original: Method) -> Method:
        """The connection's ``cursor()``."""

        def cursor(connection: object, *args: Any, **kwargs: Any) -> Any:
            made = original(connection, *args, **kwargs)
            if type(made) not in self._known:
                self._learn(made, connection)
            return made

        return dressed(cursor, original)

    def _learn(self, cursor: object, connection: object) -> None:
        try:
            patches = self._patches
            if patches is None:
                return  # undone, and another tool's wrapper still calls ours
            self._known.add(type(cursor))
            name = _attribute_with(cursor, connection)
            if name is None:
                return
            for method in _RUNS:
                owner = next((base for base in type(cursor).__mro__ if method in vars(base)), None)
                if owner is None or (owner, method) in self._patched:
                    continue
                self._patched.add((owner, method))
                patches.replace(owner, method, lambda original: self._running(original, name))
        except TypeError:
            return  # a cursor class that is written in C: what it runs is not seen
        except Exception as error:
            self._runtime.internal_error(f"{self._library}.cursor", error)

    def _running(self, original: Method, name: str) -> Method:
        return running(original, self._direct, lambda cursor: getattr(cursor, name, None))


def _attribute_with(cursor: object, connection: object) -> str | None:
    """The attribute by which a cursor knows its connection. PEP 249 makes none obligatory, and some warn of its use."""
    return next((name for name, value in getattr(cursor, "__dict__", {}).items() if value is connection), None)


def _itself(connection: object) -> object:
    return connection
