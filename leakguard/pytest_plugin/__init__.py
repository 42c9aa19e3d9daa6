"""The pytest plugin: ``pytest --leakguard`` fails every test that leaks a database connection.

This module is what pytest loads in every run where leakguard is installed, so it only declares: options, markers and
the fixture. Everything else is imported when the plugin is turned on.

Where to find what: `places` says which test or fixture acquired, `inspection` what it left open, `verdicts` whether
that fails the run, `known` what the baseline says to that, and `plugin` ties all of it to pytest's hooks. `findings`
travel from there, also out of xdist's workers, to `run_report`, which the `summary` and the report file are made
from.
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
    "leakguard_growth(rounds=5, warmup=1): run this test several times with the same fixtures; it fails for "
    "connections, pools and server connections that are more after every round.",
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
    group.addoption(
        "--leakguard-baseline",
        metavar="FILE",
        default=None,
        help="The leaks listed in FILE are known and do not fail; new ones do, and more of a listed one than its max.",
    )
    group.addoption(
        "--leakguard-update-baseline",
        action="store_true",
        default=False,
        help="Write what this run finds to the baseline, say what changed, and fail for none of it.",
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
    elif config.getoption("leakguard_update_baseline"):
        raise pytest.UsageError("leakguard: --leakguard-update-baseline: leakguard is off, add --leakguard")


@pytest.fixture
def leakguard(request: pytest.FixtureRequest) -> LeakguardFixture:
    """This test's connections: ``.holds()``, ``.check()``, ``.allow(connection, reason)``."""
    from leakguard.pytest_plugin.fixture import LeakguardFixture

    return LeakguardFixture.of(request.config)
