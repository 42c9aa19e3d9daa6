"""The pytest plugin: ``pytest --leakguard`` fails every test that leaks a database connection.

This module is what pytest loads in every run where leakguard is installed, so it only declares: options, markers and
the fixture. Everything else is imported when the plugin is turned on.

Where to find what: `places` says which test or fixture acquired, `inspection` what it left open, `verdicts` whether
that fails the run, `plugin` ties both to pytest's hooks. `findings` travel from there, also out of xdist's workers, to
`run_report`, which the `summary` and the report file are made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from leakguard.pytest_plugin.fixture import LeakguardFixture

_MARKERS = (
    "leakguard(mode=..., allow=N, reason=...): how this test's connection leaks are judged: mode fail, warn or off; "
    "up to N leaks are known and do not fail it.",
    "allow_leaks(reason): this test may leak database connections.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options and the ini setting."""
    group = parser.getgroup("leakguard", "database connection leaks (leakguard)")
    group.addoption(
        "--leakguard", action="store_true", default=False, help="Fail every test that leaks a database connection."
    )
    group.addoption(
        "--leakguard-mode",
        choices=("fail", "warn", "off"),
        default=None,
        help="What a connection leak does: fail the test, only be reported (warn), or nothing is watched (off).",
    )
    group.addoption(
        "--leakguard-report",
        metavar="FILE",
        default=None,
        help="Write every finding of this run to FILE, as JSON Lines; an existing file is replaced.",
    )
    parser.addini("leakguard_mode", "What a connection leak does: fail, warn or off (the default).", default="off")


def pytest_configure(config: pytest.Config) -> None:
    """Turn the plugin on if it is asked for."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)
    asked = config.getoption("leakguard_mode") or ("fail" if config.getoption("leakguard") else None)
    mode = asked or config.getini("leakguard_mode")
    if mode != "off":
        from leakguard.pytest_plugin.plugin import turn_on

        turn_on(config, mode, source=f"leakguard_mode in {config.inipath or 'the configuration'}")


@pytest.fixture
def leakguard(request: pytest.FixtureRequest) -> LeakguardFixture:
    """This test's connections: ``.holds()``, ``.check()``, ``.allow(connection, reason)``."""
    from leakguard.pytest_plugin.fixture import LeakguardFixture

    return LeakguardFixture.of(request.config)
