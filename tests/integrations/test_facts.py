"""The facts about the libraries that the code leans on. One that fails says that a new version has changed it."""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
import weakref

import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool
from psycopg_pool.base import BasePool
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, Pool, QueuePool, SingletonThreadPool, StaticPool

from tests.integrations.support import steady, url_for

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"),
]


class Calls(list):
    """Records the calls of a method for the length of a test."""

    def of(self, monkeypatch, owner, name, is_async=False):
        original = vars(owner)[name]
        calls = self

        if is_async:

            async def wrapper(*args, **kwargs):
                calls.append(name)
                return await original(*args, **kwargs)
        else:

            def wrapper(*args, **kwargs):
                calls.append(name)
                return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, wrapper)
        return self


class TestPsycopg:
    def test_choke_point(self, dsn, monkeypatch):
        """Every connection passes `BaseConnection.__init__`, connected: sync, async, subclasses, pools."""
        calls = Calls().of(monkeypatch, psycopg.BaseConnection, "__init__")
        psycopg.connect(dsn).close()

        class Mine(psycopg.Connection):
            pass

        Mine.connect(dsn).close()

        async def main():
            await (await psycopg.AsyncConnection.connect(dsn)).close()

        asyncio.run(main())
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            pool.wait()
        assert len(calls) == 4
        assert "__init__" not in vars(Mine)

    def test_connected_at_that_point(self, dsn, monkeypatch):
        """At that point libpq knows the server process and has the socket."""
        seen = []
        original = psycopg.BaseConnection.__init__

        def init(self, *args):
            original(self, *args)
            seen.append((self.pgconn.backend_pid, self.pgconn.socket))

        monkeypatch.setattr(psycopg.BaseConnection, "__init__", init)
        psycopg.connect(dsn).close()
        assert all(number > 0 for number in seen[0])

    def test_all_io_waits(self, dsn, monkeypatch):
        """Statements, transactions, COPY, pipelines, server cursors and notifications pass `Connection.wait`."""
        conn = psycopg.connect(dsn)
        calls = Calls().of(monkeypatch, psycopg.Connection, "wait")
        counts = []

        def count(action):
            calls.clear()
            action()
            counts.append(bool(calls))

        count(lambda: conn.execute("SELECT 1"))
        count(conn.commit)
        count(lambda: conn.cursor().executemany("SELECT %s", [(1,), (2,)]))

        def copy():
            with conn.cursor() as cursor, cursor.copy("COPY (SELECT 1) TO STDOUT") as copied:
                list(copied)

        def named():
            with conn.cursor("named") as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchone()

        def pipeline():
            with conn.pipeline():
                conn.execute("SELECT 1")

        count(copy)
        count(named)
        count(pipeline)
        count(lambda: list(conn.cursor().stream("SELECT 1")))
        count(conn.rollback)
        count(lambda: list(conn.notifies(timeout=0.001)))
        conn.close()
        assert counts == [True] * 9

    def test_connect_is_bound_early(self):
        """`psycopg.connect` is a bound method of the class as it was: patching the class does not reach it."""
        assert inspect.ismethod(psycopg.connect)
        assert psycopg.connect.__self__ is psycopg.Connection

    def test_no_sqlstate_when_refused(self, dsn):
        """A connect that the server refuses for want of slots has no sqlstate: only the text tells."""
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute("CREATE ROLE fact_role LOGIN CONNECTION LIMIT 0")
            try:
                with pytest.raises(psycopg.OperationalError) as raised:
                    psycopg.connect(dsn, user="fact_role")
            finally:
                admin.execute("DROP ROLE fact_role")
        assert raised.value.sqlstate is None
        assert "too many connections for role" in str(raised.value)

    def test_transaction_status_is_local(self, dsn):
        """The transaction status is libpq's own, also of a closed connection."""
        conn = psycopg.connect(dsn)
        assert int(conn.pgconn.transaction_status) == 0
        conn.execute("SELECT 1")
        assert int(conn.pgconn.transaction_status) == 2
        conn.close()
        assert int(conn.pgconn.transaction_status) == 4

    def test_connect_generator(self):
        """`_connect_gen` is where every connect passes, in the class body, as a classmethod."""
        assert isinstance(vars(psycopg.BaseConnection)["_connect_gen"], classmethod)

    def test_weak_references(self, dsn):
        """Connections can be referred to weakly."""
        conn = psycopg.connect(dsn)
        ref = weakref.ref(conn)
        conn.close()
        del conn
        gc.collect()
        assert ref() is None


class TestPsycopgPool:
    def test_two_doors(self):
        """getconn and putconn are defined by two classes; the null pools inherit them."""
        for name in ("getconn", "putconn"):
            assert name in vars(ConnectionPool)
            assert name in vars(AsyncConnectionPool)
            assert name not in vars(NullConnectionPool)
            assert name not in vars(AsyncNullConnectionPool)
        assert all(issubclass(cls, BasePool) for cls in (ConnectionPool, AsyncConnectionPool))

    def test_connection_uses_them(self, dsn, monkeypatch):
        """connection() goes through both doors."""
        calls = Calls().of(monkeypatch, ConnectionPool, "getconn").of(monkeypatch, ConnectionPool, "putconn")
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            pass
        assert calls == ["getconn", "putconn"]

    def test_connect_hook(self):
        """`_connect` opens the pools' connections."""
        assert "_connect" in vars(ConnectionPool)
        assert "_connect" in vars(AsyncConnectionPool)

    def test_dropped_loses_the_slot(self, dsn):
        """The pool never notices a dropped checkout: its size stays, its connection is gone."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            pool.getconn()
            gc.collect()
            stats = pool.get_stats()
            assert (stats["pool_size"], stats.get("pool_available", 0)) == (1, 0)
            with pytest.raises(psycopg_pool.PoolTimeout):
                pool.getconn(timeout=0.01)

    def test_with_getconn_does_not_return(self, dsn):
        """`Connection.__exit__` of a pooled connection neither closes nor returns."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            with pool.getconn() as conn:
                pass
            assert not conn.closed
            assert pool.get_stats().get("pool_available", 0) == 0
            pool.putconn(conn)

    def test_returned_twice(self, dsn):
        """A wrong putconn is a ValueError that changes nothing."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            conn = pool.getconn()
            pool.putconn(conn)
            steady(pool)
            with pytest.raises(ValueError):
                pool.putconn(conn)
            steady(pool)


def sequence(pool_or_engine, names):
    told = []
    for name in names:
        event.listen(pool_or_engine, name, lambda *args, name=name: told.append(name))
    return told


NAMES = ["connect", "checkout", "checkin", "close", "detach", "close_detached", "invalidate", "soft_invalidate"]


class TestSQLAlchemy:
    @pytest.fixture
    def make(self, dsn):
        engines = []

        def make(**options):
            engine = sa.create_engine(url_for(dsn, "psycopg"), **options)
            engines.append(engine)
            return engine, sequence(engine, NAMES)

        yield make
        for engine in engines:
            engine.dispose()

    def test_one_door(self):
        """Every pool class connects through `Pool.connect`, but SingletonThreadPool's own, which calls it."""
        from sqlalchemy import pool

        classes = [cls for cls in vars(pool).values() if isinstance(cls, type) and issubclass(cls, Pool)]
        assert {cls for cls in classes if "connect" in vars(cls)} == {Pool, SingletonThreadPool}

    def test_options_are_read_from_the_code(self):
        """create_engine() takes a pool's options from the code object of `Pool.__init__`."""
        from sqlalchemy.util import get_cls_kwargs

        assert {"pre_ping", "recycle", "pool_size"} <= set(get_cls_kwargs(QueuePool))

    def test_connection_record(self, make):
        """A checkout knows its record, and the record its driver's connection."""
        engine, _ = make()
        with engine.connect() as conn:
            record = conn.connection._connection_record
            assert record.driver_connection is conn.connection.driver_connection
            assert record._ConnectionRecord__pool is engine.pool
            assert conn._dbapi_connection is conn.connection

    @pytest.mark.parametrize(
        ("action", "expected"),
        [
            ("close", ["connect", "checkout", "checkin"]),
            ("invalidate", ["connect", "checkout", "invalidate", "close", "checkin"]),
            ("detach", ["connect", "checkout", "detach", "close_detached"]),
            ("drop", ["connect", "checkout", "checkin"]),
            ("drop detached", ["connect", "checkout", "detach"]),
        ],
    )
    def test_events(self, make, action, expected):
        """The order of the pool's events, for each end of a checkout."""
        engine, told = make()

        def use():
            conn = engine.connect()
            if "detach" in action:
                conn.detach()
            if action == "invalidate":
                conn.invalidate()
            if "drop" not in action:
                conn.close()

        use()
        gc.collect()
        assert told == expected

    def test_null_pool_events(self, make):
        """A null pool closes after the checkin."""
        engine, told = make(poolclass=NullPool)
        engine.connect().close()
        assert told == ["connect", "checkout", "checkin", "close"]

    def test_dead_handle_at_checkin(self, make):
        """When the collector returns a checkout, its handle is dead by the time of the `checkin` event."""
        engine, _ = make()
        refs, dead = [], []
        event.listen(engine, "checkout", lambda dbapi, record, fairy: refs.append(weakref.ref(fairy)))
        event.listen(engine, "checkin", lambda dbapi, record: dead.append(refs[-1]() is None))
        engine.connect()
        gc.collect()
        engine.connect().close()
        assert dead == [True, False]

    def test_async_drop_has_no_checkin(self, dsn):
        """An async engine's dropped checkout fires `detach` and never `checkin`."""

        async def main():
            engine = create_async_engine(url_for(dsn, "psycopg"))
            told = sequence(engine.sync_engine, NAMES)

            async def drop():
                await engine.connect()

            await drop()
            gc.collect()
            await engine.dispose()
            return told

        assert asyncio.run(main())[:3] == ["connect", "checkout", "detach"]

    def test_creator_frames(self, dsn):
        """The pool's creator is called from `__connect` of sqlalchemy.pool.base, which tells it from other calls."""
        names = []

        def creator():
            frame = sys._getframe()
            while frame is not None:
                names.append((frame.f_code.co_name, frame.f_globals.get("__name__")))
                frame = frame.f_back
            return psycopg.connect(dsn)

        engine = sa.create_engine("postgresql+psycopg://", creator=creator)
        engine.connect().close()
        engine.dispose()
        assert ("__connect", "sqlalchemy.pool.base") in names

    def test_static_pool_shares_a_record(self, make):
        """StaticPool hands one record to several checkouts."""
        engine, told = make(poolclass=StaticPool)
        one, two = engine.connect(), engine.connect()
        assert one.connection._connection_record is two.connection._connection_record
        one.close()
        two.close()
        assert told.count("checkout") == 2

    def test_a_raising_checkin_loses_the_slot(self, make):
        """That is why no handler of ours may raise there."""
        engine, _ = make(pool_size=1, max_overflow=0)

        def fail(*_):
            raise RuntimeError

        event.listen(engine, "checkin", fail)
        with pytest.raises(RuntimeError):
            engine.connect().close()
        event.remove(engine, "checkin", fail)
        gc.collect()
        assert engine.pool.checkedout() == 1

    def test_dispose_recreates(self, make):
        """dispose() replaces the pool through `recreate()`, whose successor keeps the listeners."""
        engine, told = make()
        before = engine.pool
        engine.dispose()
        assert engine.pool is not before
        told.clear()
        engine.connect().close()
        assert told == ["connect", "checkout", "checkin"]


class TestAsyncio:
    def test_loop_files(self):
        """A task's frames end at asyncio's events.py: below are those of whoever runs the loop."""
        files = []

        async def main():
            frame = sys._getframe()
            while frame is not None:
                files.append(frame.f_code.co_filename)
                frame = frame.f_back

        asyncio.run(main())
        assert files[1].endswith("asyncio/events.py")
