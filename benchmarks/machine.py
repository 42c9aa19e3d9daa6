"""The machine: what it is, a core of it to oneself, and a server on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import leakguard
from leakguard.demo.postgres import PostgresServer

LIBRARIES = (
    "psycopg",
    "psycopg-pool",
    "SQLAlchemy",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-psycopg",
    "opentelemetry-instrumentation-sqlalchemy",
)
MAX_CONNECTIONS = 100


@contextmanager
def server() -> Iterator[str]:
    """A throw-away PostgreSQL; its DSN."""
    with PostgresServer(max_connections=MAX_CONNECTIONS) as running:
        yield running.dsn()


@contextmanager
def one_core() -> Iterator[None]:
    """Everything that is started in the block runs on one core, the server too.

    Otherwise the scheduler decides from round to round whether a round trip crosses cores: that changes a checkout
    with one SELECT fivefold, and on one core it is the quickest, so that what is added shows most.
    """
    if not hasattr(os, "sched_setaffinity"):  # not Linux: the figures are noisier
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def describe() -> dict[str, object]:
    """What the figures are worth nothing without."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "leakguard": leakguard.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": {name: found for name in LIBRARIES if (found := _version(name)) is not None},
        "load": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
