"""A fixture of wider scope, from its setup to the end of its teardown, and what it owns meanwhile."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from leakguard.prose import phrases
from leakguard.pytest_plugin.careful import Careful
from leakguard.pytest_plugin.inspection import Inspector, Residents
from leakguard.pytest_plugin.marks import Policy
from leakguard.pytest_plugin.places import Place
from leakguard.pytest_plugin.verdicts import Verdicts


class FixtureLife:
    """Two intervals, setup and teardown; tests run between them. Judged when its teardown is done."""

    def __init__(
        self,
        fixturedef: pytest.FixtureDef[Any],
        inspector: Inspector,
        verdicts: Verdicts,
        parameter: object,
        node: str,
        careful: Callable[[str], Careful],
    ) -> None:
        self.failed = False
        self._fixturedef = fixturedef
        self._inspector = inspector
        self._verdicts = verdicts
        self._careful = careful
        self._place = Place(
            fixture=_name(fixturedef, parameter), scope=fixturedef.scope, where=partial(_where, fixturedef), node=node
        )
        self._before = self._after = self._others = inspector.residents()
        self._since = 0

    def setup_begins(self) -> None:
        """What is acquired from here on is the fixture's."""
        self._since = self._inspector.timeline.enter(self._place)
        self._fixturedef.addfinalizer(self._teardown_ends)  # the first to be added is the last to run

    def setup_ends(self) -> None:
        """The fixture has its value."""
        self._inspector.timeline.leave(self._place)
        self._after = self._inspector.residents()
        self._fixturedef.addfinalizer(self._teardown_begins)  # after those who use the fixture, before its own

    def joined_by_its_own(self, residents: Residents) -> Residents:
        """The threads and tasks that the fixture has started are not those of the test that asked for it first."""
        return residents.with_newcomers(self._before, self._after)

    def _teardown_begins(self) -> None:
        self._inspector.timeline.enter(self._place)
        # Neither are those its own that were there before it, or that tests and other fixtures have started since.
        self._others = self._before.with_newcomers(self._after, self._inspector.residents())

    def _teardown_ends(self) -> None:
        with self._careful("the end of a fixture"):
            if not self._inspector.quiet_since(self._since):
                if self.failed:
                    self._verdicts.remember(self._place, Policy(self._verdicts.mode), failed=True)
                self._inspector.inspect(self._place, since=self._since, residents=self._others)
        self._inspector.timeline.leave(self._place)


_XUNIT: Final = ("setup_module", "setup_class", "setUpModule", "setUpClass")


def _name(fixturedef: pytest.FixtureDef[Any], parameter: object = None) -> str:
    """Its name; pytest runs the setup functions of modules and classes as fixtures with names of its own."""
    name = fixturedef.argname
    if "unit_" in name:
        return next((known for known in _XUNIT if known in name), name)
    return f"{name}[{str(parameter)[:40]}]" if isinstance(parameter, (str, int, float)) else name


def _where(fixturedef: pytest.FixtureDef[Any]) -> str:
    function = inspect.unwrap(fixturedef.func)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if code is None or _name(fixturedef) in _XUNIT:
        return fixturedef.baseid or "a plugin"
    return f"{phrases.path(code.co_filename)}:{code.co_firstlineno}"
