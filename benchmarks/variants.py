"""The names of what is compared, and the settings behind those that are leakguard's."""

from __future__ import annotations

BARE = "bare"
LEAKGUARD = "leakguard"
LISTENER = "format_stack listener"
ECHO = "echo_pool='debug'"
TELEMETRY = "OpenTelemetry"
TRACEMALLOC = "tracemalloc=25"

SETTINGS: dict[str, dict[str, object] | None] = {
    BARE: None,
    LEAKGUARD: {},
    "stacks=full": {"stacks": "full"},
    "stacks=site": {"stacks": "site"},
    "stacks=off": {"stacks": "off"},
    "enabled=False": {"enabled": False},
}
"""By name: the settings of a guard that is installed; None where there is none."""

PSYCOPG_POOL, SQLALCHEMY = "psycopg_pool", "SQLAlchemy"
ASYNC_PSYCOPG_POOL, ASYNC_SQLALCHEMY = "psycopg_pool, async", "SQLAlchemy, async"
WHAT_IS_TIMED = {
    PSYCOPG_POOL: "ConnectionPool.getconn / putconn",
    SQLALCHEMY: "Engine.connect / Connection.close, QueuePool over psycopg",
    ASYNC_PSYCOPG_POOL: "AsyncConnectionPool.getconn / putconn",
    ASYNC_SQLALCHEMY: "AsyncEngine.connect / AsyncConnection.close, over psycopg",
}
SUBJECTS = tuple(WHAT_IS_TIMED)
DEPTH = 40
"""The stack depth that the goals are meant for."""
