"""The libraries that are watched: which integration belongs to which, and what becomes of one that fails.

An integration is installed when its library is imported, or at once if it has been already. An error inside it never
reaches the application: it is counted, logged once, and an integration that goes on failing is switched off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from leakguard.integrations import base
from leakguard.patching import ImportWatcher, Patches
from leakguard.tracker import Tracker

if TYPE_CHECKING:
    import logging

NAMES: Final = ("psycopg", "psycopg_pool", "sqlalchemy")
"""The integrations, by the module whose import brings each of them in."""
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

    def install(self, runtime: base.Runtime, more: dict[str, Callable[[], None]]) -> None:
        """Install the integrations of what has been imported, and wait for the others; `more` are hooks besides."""

        def activation(name: str) -> Callable[[], None]:
            return lambda: self._activate(name, runtime)

        self._importing = ImportWatcher({**{name: activation(name) for name in NAMES}, **more})
        self._importing.install()

    def undo(self) -> None:
        """Put everything back."""
        if self._importing is not None:
            self._importing.uninstall()
            self._importing = None
        for patches in self.installed.values():
            patches.undo()
        self.installed.clear()
        self._errors.clear()

    def forget_errors(self) -> None:
        """A forked child counts its own."""
        self.internal_errors = 0
        self._errors.clear()

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count an error of leakguard's own, log the first of each place, and switch off what keeps failing."""
        self.internal_errors += 1
        count = self._errors[where] = self._errors.get(where, 0) + 1
        try:
            if count == 1:
                # As text: a traceback in a record that a handler keeps would keep the frames' connections alive.
                import traceback

                trace = "".join(traceback.format_exception(error)).rstrip()
                _log().warning("leakguard: internal error in %s; the application goes on\n%s", where, trace)
            name = where.partition(".")[0]
            if count == ERRORS_UNTIL_OFF and name in self.installed:
                _log().warning("leakguard: %d internal errors in %s; it is no longer watched", count, name)
                # Inert, not undone: a listener that goes away while SQLAlchemy walks over the listeners is an error
                # of the application's.
                self._tracker.switch_off(name)
        except Exception:  # a logging handler of the application's that fails must not reach its acquire
            self.internal_errors += 1

    def _activate(self, name: str, runtime: base.Runtime) -> None:
        try:
            integration = _integration(name)
            version = getattr(sys.modules[integration.module], "__version__", "0")
            if not integration.versions.admits(version):
                _log().warning(
                    "leakguard watches %s %s; this is %s, which stays unwatched. "
                    "Upgrade one of the two, or tell us that you need it.",
                    integration.module,
                    integration.versions,
                    version,
                )
                return
            patches = self.installed[name] = Patches()
            integration.install(runtime, patches)
        except Exception as error:
            self.internal_error(f"{name}.install", error)
            half_done = self.installed.pop(name, None)
            if half_done is not None:
                half_done.undo()


def _log() -> logging.Logger:
    import logging  # here: most processes never have an error of ours to tell

    return logging.getLogger("leakguard")


def _integration(name: str) -> base.Integration:
    match name:
        case "psycopg":
            from leakguard.integrations.psycopg import PsycopgIntegration

            return PsycopgIntegration()
        case "psycopg_pool":
            from leakguard.integrations.psycopg_pool import PsycopgPoolIntegration

            return PsycopgPoolIntegration()
        case "sqlalchemy":
            from leakguard.integrations.sqlalchemy import SQLAlchemyIntegration

            return SQLAlchemyIntegration()
        case _:
            raise KeyError(name)
