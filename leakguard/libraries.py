"""The libraries that are watched: which integration belongs to which, and what becomes of one that fails.

An integration is installed when its library is imported, or at once if it has been already. There are those of
leakguard itself, those that the settings name, and those that other packages bring along. An error inside one never
reaches the application: it is counted, logged once, and an integration that goes on failing is switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

from leakguard import plug_ins
from leakguard.errors import UnsupportedError
from leakguard.integrations import base
from leakguard.patching import ImportWatcher, Patches
from leakguard.process.interruptions import let_through
from leakguard.register.tracker import Tracker
from leakguard.telling.delivery import Outlet

if TYPE_CHECKING:
    import logging
    from importlib.metadata import EntryPoint

MODULES: Final = {
    "psycopg": "psycopg",
    "psycopg_pool": "psycopg_pool",
    "psycopg2": "psycopg2",
    "psycopg2_pool": "psycopg2.pool",
    "asyncpg": "asyncpg",
    "sqlite3": "sqlite3",
    "sqlalchemy": "sqlalchemy",
}
"""Our own integrations, and the module whose import brings each of them in."""
_WATCHED_BY: Final = {"asyncpg": ("asyncpg", "asyncpg_pool")}
"""The values of `library` that an integration tells of, where it is not its own name alone."""
ERRORS_UNTIL_OFF: Final = 20
"""After this many errors of leakguard's own in one place of an integration, that integration is switched off."""


class Libraries:
    """The integrations of this process, and the errors in them. Install and undo hold the runtime's lock."""

    def __init__(self, tracker: Tracker) -> None:
        self.internal_errors = 0
        self.installed: dict[str, Patches] = {}
        self._tracker = tracker
        self._errors: dict[str, int] = {}
        self._importing: ImportWatcher | None = None
        self._awaited: dict[str, Callable[[], None]] = {}
        self._named: dict[str, Callable[[], None]] = {}
        self._said: set[str] = set()

    def install(self, runtime: base.Runtime, more: dict[str, Callable[[], None]]) -> None:
        """Install the integrations of what has been imported, and wait for the others; `more` are hooks besides."""

        def activation(name: str) -> Callable[[], None]:
            return lambda: self._activate(name, lambda: _integration(name), runtime)

        def brought_along(entry: EntryPoint) -> Callable[[], None]:
            return lambda: self._activate(entry.name, lambda: plug_ins.load(entry), runtime)

        def harmless(name: str, hook: Callable[[], None]) -> Callable[[], None]:
            return lambda: self._call(name, hook)

        theirs = {module: brought_along(entry) for module, entry in plug_ins.found().items()}
        ours = {module: activation(name) for name, module in MODULES.items()}
        hooks = {name: harmless(name, hook) for name, hook in more.items()}
        self._awaited = {**theirs, **self._named, **ours, **hooks}
        self._importing = ImportWatcher(dict(self._awaited))
        self._importing.install()

    def add(self, integrations: Iterable[object], runtime: base.Runtime) -> None:
        """Install more integrations, those that the settings name: integrations, or modules for the generic one.

        One for a library that is watched already, by ours or by another, changes nothing.
        """
        for given in integrations:
            integration = _generic(given) if isinstance(given, str) else cast("base.Integration", given)
            if integration.module in MODULES.values() or integration.module in self._named:
                continue
            self._named[integration.module] = self._activation_of(integration, runtime)
            if self._importing is not None and integration.module not in self._awaited:
                self._importing.watch(integration.module, self._named[integration.module])

    def undo(self) -> None:
        """Put everything back."""
        if self._importing is not None:
            self._importing.uninstall()
            self._importing = None
        for patches in self.installed.values():
            patches.undo()
        self.installed.clear()
        self._awaited.clear()
        self._named.clear()
        self._errors.clear()

    def forget_errors(self) -> None:
        """A forked child counts its own."""
        self.internal_errors = 0
        self._errors.clear()

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count an error of leakguard's own, log the first of each place, and switch off what keeps failing.

        Raises it again if it is none of leakguard's own: a signal handler of the application's interrupted us.
        """
        let_through(error)
        self.internal_errors += 1
        try:
            count = self._errors[where] = self._errors.get(where, 0) + 1
            if count == 1:
                # As text: a traceback in a record that a handler keeps would keep the frames' connections alive.
                import traceback

                trace = "".join(traceback.format_exception(error)).rstrip()
                _log().warning("leakguard: internal error in %s; the application goes on\n%s", where, trace)
            name = next((name for name in self.installed if where.startswith(f"{name}.")), None)
            if count == ERRORS_UNTIL_OFF and name is not None:
                _log().warning("leakguard: %d internal errors in %s; it is no longer watched", count, name)
                # Inert, not undone: a listener that goes away while SQLAlchemy walks over the listeners is an error
                # of the application's.
                for library in _WATCHED_BY.get(name, (name,)):
                    self._tracker.switch_off(library)
        except Exception:  # a logging handler of the application's that fails must not reach its acquire
            self.internal_errors += 1

    def say(self, text: str) -> None:
        """Log what leakguard does by itself."""
        _log().warning("%s", text)

    def slow_reporter(self, outlet: Outlet) -> None:
        """Say that a reporter could not keep up."""
        _log().warning(
            "leakguard: a reporter (%s) is slower than the events: %d were dropped so far. The counts stay exact, and "
            "the summary says how many were dropped; make that reporter hand its work to a thread of its own.",
            getattr(outlet.report, "__qualname__", type(outlet.report).__name__),
            outlet.dropped,
        )

    def _call(self, name: str, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception as error:
            self.internal_error(f"{name}.install", error)

    def _activation_of(self, integration: base.Integration, runtime: base.Runtime) -> Callable[[], None]:
        return lambda: self._activate(integration.module, lambda: integration, runtime)

    def _activate(self, name: str, make: Callable[[], base.Integration], runtime: base.Runtime) -> None:
        try:
            integration = make()
            name = getattr(integration, "library", name)  # by which it tells of its errors
            version = _version_of(integration.module)
            if integration.versions is not None and not integration.versions.admits(version):
                raise UnsupportedError(
                    f"leakguard watches {integration.module} {integration.versions}; this is {version or 'unknown'}, "
                    "which stays unwatched. Upgrade one of the two, or tell us that you need it."
                )
            patches = self.installed[name] = Patches()
            integration.install(runtime, patches)
        except (UnsupportedError, plug_ins.PlugInError) as error:
            self._give_up(name)
            self._say_once(str(error))
        except Exception as error:
            self._give_up(name)
            self.internal_error(f"{name}.install", error)

    def _give_up(self, name: str) -> None:
        half_done = self.installed.pop(name, None)
        if half_done is not None:
            half_done.undo()

    def _say_once(self, text: str) -> None:
        # Once in a process: each no_leaks() block of a test suite installs everything again.
        if text not in self._said:
            self._said.add(text)
            _log().warning("%s", text if text.startswith("leakguard") else f"leakguard: {text}")


def _version_of(module: str) -> str:
    """``__version__`` of the module or its package, else that of the distribution of this name; else nothing."""
    package = module.partition(".")[0]
    for name in (module, package):
        version = getattr(sys.modules.get(name), "__version__", None)
        if isinstance(version, str):
            return version
    try:
        from importlib.metadata import version as version_of

        return version_of(package)
    except Exception:  # a module that was not installed as a package
        return ""


def _log() -> logging.Logger:
    import logging  # here: most processes never have an error of ours to tell

    return logging.getLogger("leakguard")


def _generic(module: str) -> base.Integration:
    from leakguard.integrations.dbapi import DBAPI

    return DBAPI(module)


def _integration(name: str) -> base.Integration:
    match name:
        case "psycopg":
            from leakguard.integrations.psycopg import PsycopgIntegration

            return PsycopgIntegration()
        case "psycopg_pool":
            from leakguard.integrations.psycopg_pool import PsycopgPoolIntegration

            return PsycopgPoolIntegration()
        case "asyncpg":
            from leakguard.integrations.asyncpg import AsyncpgIntegration

            return AsyncpgIntegration()
        case "psycopg2":
            from leakguard.integrations.psycopg2 import Psycopg2Integration

            return Psycopg2Integration()
        case "psycopg2_pool":
            from leakguard.integrations.psycopg2_pool import Psycopg2PoolIntegration

            return Psycopg2PoolIntegration()
        case "sqlite3":
            from leakguard.integrations.sqlite3 import Sqlite3Integration

            return Sqlite3Integration()
        case "sqlalchemy":
            from leakguard.integrations.sqlalchemy import SQLAlchemyIntegration

            return SQLAlchemyIntegration()
        case _:
            raise KeyError(name)
