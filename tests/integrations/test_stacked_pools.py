"""SQLAlchemy over psycopg_pool: two pools, one connection, and only the outer one reports."""

from __future__ import annotations

import psycopg
import pytest
import sqlalchemy as sa
from psycopg_pool import ConnectionPool
from sqlalchemy.pool import NullPool, QueuePool

import leakguard
from tests.integrations.support import in_thread, steady

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class ReturnedByClose(psycopg.Connection):
    """SQLAlchemy closes what it was given; the inner pool wants it back. What psycopg's documentation shows."""

    def close(self):
        pool = getattr(self, "_pool", None)
        if pool is not None:
            pool.putconn(self)
        else:
            super().close()


@pytest.fixture(params=[NullPool, QueuePool], ids=["null", "queue"])
def stack(request, lab, dsn):
    """An engine whose connections come from a psycopg pool."""
    inner = ConnectionPool(dsn, connection_class=ReturnedByClose, min_size=2, max_size=2, open=True, name="inner")
    inner.wait()
    options = {} if request.param is NullPool else {"pool_size": 1, "max_overflow": 0}
    engine = sa.create_engine("postgresql+psycopg://", creator=inner.getconn, poolclass=request.param, **options)
    yield engine, inner
    engine.dispose()
    inner.close()


def test_dropped(lab, stack):
    """A dropped checkout is one leak, of the outer pool."""
    engine, _ = stack

    def leak():
        conn = engine.connect()  # LEAK
        conn.execute(sa.text("SELECT 1"))

    leak()
    lab.collect()
    assert lab.only("dropped").hold.library == "sqlalchemy"
    lab.advance(100)
    assert lab.kinds == ["dropped"]


def test_overdue(lab, stack):
    """A long checkout is one suspicion, of the outer pool, and recovers once."""
    engine, _ = stack
    conn = engine.connect()  # LEAK
    assert [hold.library for hold in leakguard.holds()] == ["sqlalchemy"]
    lab.advance(61)
    assert lab.only("overdue").hold.library == "sqlalchemy"
    conn.close()
    lab.runtime.beat()
    assert len(lab.recovered) == 1


def test_orphaned(lab, stack):
    """An orphan is one leak."""
    engine, _ = stack
    conn = in_thread(lambda: engine.connect())  # LEAK
    lab.advance(7)
    assert lab.only("orphaned").hold.library == "sqlalchemy"
    conn.close()


def test_clean(lab, stack):
    """Closed: nothing to say, no nested acquire, and nothing left in the inner pool's accounts but what is kept."""
    engine, inner = stack
    for _ in range(3):
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
    del conn
    lab.advance(2000)
    assert leakguard.holds() == []
    engine.dispose()
    steady(inner)
    acquired, released, held, leaked = lab.counts()
    assert (acquired, held, leaked) == (released, 0, 0)
    lab.nothing()


def test_inner_pool_alone(lab, stack):
    """A checkout of the inner pool by the application itself is reported as ever."""
    _, inner = stack

    def leak():
        inner.getconn()  # LEAK

    leak()
    lab.collect()
    assert lab.only("dropped").hold.library == "psycopg_pool"


def test_creator_of_direct_connections(lab, dsn):
    """A `creator` of the application that connects itself opens the pool's connections, not the application's."""

    def creator():
        return psycopg.connect(dsn)

    engine = sa.create_engine("postgresql+psycopg://", creator=creator)
    in_thread(lambda: engine.connect().close())
    lab.advance(2000)
    assert leakguard.holds() == []
    assert lab.counts() == (1, 1, 0, 0)
    engine.dispose()
    lab.nothing()


def test_creator_that_opens_one_more(lab, dsn):
    """While the outer pool is full, its own connection is judged once, and detaching it makes it a direct one."""
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), pool_size=1)
    conn = engine.connect()
    conn.detach()
    lab.advance(100)
    assert lab.kinds == []
    conn.close()
    del conn
    engine.dispose()
    lab.nothing()
