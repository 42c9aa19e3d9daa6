"""Fixtures for all tests: a real PostgreSQL, and an empty database on it.

``LEAKGUARD_TEST_DSN`` names an existing server to use instead of a throw-away one; its user must be allowed to create
databases and to end other sessions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Protocol
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from leakguard.demo.postgres import PostgresServer
from leakguard.pytest_plugin import inspection
from leakguard.telling import census

MAX_CONNECTIONS = 20


@pytest.fixture(autouse=True)
def nothing_stays_patched(pytestconfig: pytest.Config) -> Iterator[None]:
    """A test that leaves a patch behind would make another one fail, some other day."""
    yield
    if pytestconfig.getoption("--leakguard", default=False):
        return  # leakguard watches this very run
    for module, owner, name in (
        ("psycopg", "BaseConnection", "__init__"),
        ("psycopg_pool", "ConnectionPool", "getconn"),
        ("psycopg2.pool", "AbstractConnectionPool", "_getconn"),
        ("asyncpg.pool", "Pool", "_acquire"),
        ("sqlalchemy.pool", "Pool", "connect"),
        ("psycopg2", None, "_connect"),
        ("sqlite3", None, "connect"),
    ):
        if module in sys.modules:
            holder = vars(sys.modules[module])
            patched = holder[name] if owner is None else vars(holder[owner])[name]
            assert not hasattr(patched, "__wrapped__"), f"{module}.{owner}.{name} is still patched"


@pytest.fixture(autouse=True)
def time_to_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, with all that a test run has in memory, a search for references would run out of time."""
    monkeypatch.setattr(census, "SEARCH_BUDGET", 60.0)
    monkeypatch.setattr(census, "SEARCHES_BUDGET", 60.0)
    monkeypatch.setattr(inspection, "SEARCH_BUDGET", 60.0)


class Server(Protocol):
    """What tests may use of a server, throw-away or not. `version` is a text such as ``"16.14"``."""

    port: int
    version: str

    def dsn(self, dbname: str = "postgres", **params: str | int) -> str: ...

    def log_text(self) -> str: ...


class ExistingServer:
    """The server of ``LEAKGUARD_TEST_DSN``. Its log cannot be read."""

    def __init__(self, dsn: str) -> None:
        self._parameters = conninfo_to_dict(dsn)
        with psycopg.connect(dsn) as connection:
            self.port = connection.info.port
            self.version = connection.info.parameter_status("server_version") or ""
            self._host = connection.info.host
            self._login = quote(connection.info.user, safe="")
            if connection.info.password:
                self._login += ":" + quote(connection.info.password, safe="")

    def dsn(self, dbname: str = "postgres", **params: str | int) -> str:
        kept = {key: value for key, value in self._parameters.items() if key not in _IN_AUTHORITY and value is not None}
        query = urlencode({**kept, **params}, quote_via=quote)
        address = f"{self._login}@{quote(self._host, safe='')}:{self.port}"
        return f"postgresql://{address}/{quote(dbname, safe='')}" + (f"?{query}" if query else "")

    def log_text(self) -> str:
        return ""


_IN_AUTHORITY = frozenset({"user", "password", "host", "port", "dbname"})

_RESET = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid();
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server with room for few connections (20), for the whole session."""
    existing = os.environ.get("LEAKGUARD_TEST_DSN")
    if existing:
        yield ExistingServer(existing)
        return
    with PostgresServer(max_connections=MAX_CONNECTIONS) as server:
        yield server


@pytest.fixture(scope="session")
def _database(postgres: Server) -> Iterator[str]:
    name = f"leakguard_test_{os.getpid()}"
    _execute(postgres.dsn(), f"CREATE DATABASE {name}")
    yield postgres.dsn(name)
    _execute(postgres.dsn(), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dsn(_database: str) -> Iterator[str]:
    """The URI of a database that is empty and that nobody else uses.

    Afterwards its sessions are ended, so that what one test leaked does not take the next one's connections. It is the
    same database each time: emptying one takes 5 ms, creating one up to 100 ms.
    """
    yield _database
    _execute(_database, _RESET)


def _execute(dsn: str, sql: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql)
