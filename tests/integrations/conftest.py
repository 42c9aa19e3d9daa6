"""Fixtures for the tests of the integrations."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import psycopg
import pytest

from tests.integrations.support import Lab, laboratory


@pytest.fixture
def lab() -> Iterator[Lab]:
    """leakguard, installed with its default settings and a clock of its own."""
    with laboratory() as laboratory_:
        yield laboratory_
    gc.collect()


@pytest.fixture
def kill(dsn: str):
    """Ends a server process behind its client's back."""

    def terminate(backend_pid: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (backend_pid,))

    return terminate
