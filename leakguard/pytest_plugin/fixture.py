"""What the fixture `leakguard` gives to a test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import leakguard
from leakguard.model import Hold, Leak

if TYPE_CHECKING:
    from leakguard.pytest_plugin.plugin import Plugin


class LeakguardFixture:
    """The connections of the test that runs. Where leakguard is off it sees nothing, and `allow` does nothing."""

    def __init__(self, plugin: Plugin | None) -> None:
        self._plugin = plugin

    @classmethod
    def of(cls, config: pytest.Config) -> LeakguardFixture:
        """The fixture of this run."""
        return cls(config.pluginmanager.get_plugin("leakguard-plugin"))

    def holds(self) -> list[Hold]:
        """What the test holds right now, oldest first."""
        return self._plugin.holds_of_test() if self._plugin is not None else []

    def check(self) -> list[Leak]:
        """Collect garbage and judge everything now; returns what the test has leaked so far. It still counts."""
        return self._plugin.check_test() if self._plugin is not None else []

    def allow(self, connection_or_hold: object, reason: str) -> None:
        """This one is held on purpose: it is not reported. The same as ``leakguard.allow()``."""
        leakguard.allow(connection_or_hold, reason)
