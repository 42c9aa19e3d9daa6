"""Fixtures for the tests of the doctor: small servers of each version that there is, each empty at the start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from leakguard.demo.postgres import PostgresServer, find_bindirs
from tests.doctor.support import filled_server, idle_server

BINDIRS = find_bindirs()


@pytest.fixture(scope="session", params=BINDIRS, ids=lambda path: str(path.parent).rpartition("/")[2])
def _each_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    bindir: Path = request.param
    with filled_server(bindir) as server:
        yield server


@pytest.fixture(scope="session")
def _one_server() -> Iterator[PostgresServer]:
    with filled_server(BINDIRS[0]) as server:
        yield server


@pytest.fixture
def each_server(_each_server: PostgresServer) -> PostgresServer:
    """A server of every version, one after the other; nobody is connected."""
    idle_server(_each_server)
    return _each_server


@pytest.fixture
def small(_one_server: PostgresServer) -> PostgresServer:
    """A server that takes few connections; nobody is connected."""
    idle_server(_one_server)
    return _one_server
