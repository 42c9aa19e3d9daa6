"""Fixtures for the tests of the integrations."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from psycopg import pq

from tests.integrations.support import Lab, laboratory


@pytest.fixture
def lab() -> Iterator[Lab]:
    """leakguard, installed with its default settings and a clock of its own."""
    gc.collect()
    gc.freeze()  # the tests collect often: what was there before need not be looked at each time
    try:
        with laboratory() as laboratory_:
            yield laboratory_
    finally:
        gc.unfreeze()
        gc.collect()


@pytest.fixture
def kill(dsn: str):
    """Ends a server process behind its client's back."""

    def terminate(backend_pid: int) -> None:
        admin = pq.PGconn.connect(dsn.encode())  # below what leakguard watches: it adds to no count
        admin.exec_params(b"SELECT pg_terminate_backend($1, 5000)", [str(backend_pid).encode()])
        admin.finish()

    return terminate
