"""Exhaustion: the exception itself says who holds the connections, and whether the pool or the server is full."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback

import psycopg
import pytest
import sqlalchemy as sa
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout, TooManyRequests
from sqlalchemy.ext.asyncio import create_async_engine

import leakguard
from tests.integrations.support import in_thread, laboratory, until, url_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def note_of(error):
    """The one note of leakguard's on an exception."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("leakguard: ")]
    assert len(notes) == 1, getattr(error, "__notes__", ())
    return notes[0]


def mark_of(note, mark="# HOLDER"):
    """The lines of the note that name a marked line of this file by file and number."""
    return [line for line in note.splitlines() if f"{__file__}:" in line and mark in line]


class TestPool:
    def test_timeout(self, lab, dsn):
        """A PoolTimeout lists the holders, one line a place with count and file:line, and the lost slots."""
        with ConnectionPool(dsn, min_size=1, max_size=4, open=True, name="orders") as pool:

            def drop():
                pool.getconn()

            drop()
            held = in_thread(lambda: [pool.getconn() for _ in range(2)])  # HOLDER
            other = in_thread(lambda: pool.getconn())  # HOLDER
            lab.collect()
            lab.advance(42)
            with pytest.raises(PoolTimeout) as raised:
                pool.getconn(timeout=0.05)
            note = note_of(raised.value)
            assert 'pool "orders"' in note
            assert len(mark_of(note)) == 2
            assert "2 x held for up to 42.0 s" in note
            assert "1 slot(s) are lost" in note
            assert "this very" not in note
            assert str(raised.value) == "couldn't get a connection after 0.05 sec"
            lab.runtime.beat()
            event = lab.refusals[0]
            assert (event.cause, event.pool, event.held, event.capacity, event.lost) == ("pool", "orders", 3, 4, 1)
            assert [group.count for group in event.holders] == [2, 1]
            for conn in [*held, other]:
                pool.putconn(conn)

    def test_own_hold(self, lab, dsn):
        """Where the thread that waits holds the connection itself, the note says so."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            with pool.connection():  # HOLDER
                with pytest.raises(PoolTimeout) as raised:
                    pool.getconn(timeout=0.05)
            note = note_of(raised.value)
            assert 'this very thread "MainThread" holds 1' in note
            assert len(mark_of(note)) == 1

    def test_own_hold_of_a_task(self, lab, dsn):
        """The same for a task, and the async pool."""

        async def main():
            async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
                async with pool.connection():  # HOLDER
                    with pytest.raises(PoolTimeout) as raised:
                        async with pool.connection(timeout=0.05):
                            pass
            note = note_of(raised.value)
            assert "this very task" in note
            assert len(mark_of(note)) == 1

        asyncio.run(main())

    def test_too_many_requests(self, lab, dsn):
        """TooManyRequests too."""
        with ConnectionPool(dsn, min_size=1, max_size=1, max_waiting=1, open=True) as pool, pool.connection():  # HOLDER

            def wait():
                with pytest.raises(PoolTimeout):
                    pool.getconn(0.3)

            waiter = threading.Thread(target=wait)
            waiter.start()
            until(lambda: pool.get_stats().get("requests_waiting") == 1)
            with pytest.raises(TooManyRequests) as raised:
                pool.getconn(timeout=1)
            assert len(mark_of(note_of(raised.value))) == 1
            waiter.join()

    def test_in_a_traceback(self, lab, dsn):
        """The note is part of what a traceback shows."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            with pytest.raises(PoolTimeout) as raised:
                pool.getconn(timeout=0.01)
            assert "leakguard: " in "".join(traceback.format_exception(raised.value))

    def test_folded(self, lab, dsn):
        """A flood is folded into one event with an exact count; every exception has its note."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            for _ in range(5):
                with pytest.raises(PoolTimeout) as raised:
                    pool.getconn(timeout=0.001)
                note_of(raised.value)
            lab.runtime.beat()
            assert [event.count for event in lab.refusals] == [1]
            lab.advance(11)
            assert [event.count for event in lab.refusals] == [1, 5]

    def test_other_errors_have_no_note(self, lab, dsn):
        """A closed pool, a cancelled or failed statement: none of our business."""
        pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True)
        with pytest.raises(psycopg.errors.DivisionByZero) as divided, pool.connection() as conn:
            conn.execute("SELECT 1/0")
        pool.close()
        with pytest.raises(psycopg.OperationalError) as closed:
            pool.getconn()
        for raised in (divided, closed):
            assert not hasattr(raised.value, "__notes__")
        lab.runtime.beat()
        assert lab.refusals == []

    def test_sqlalchemy(self, lab, dsn):
        """SQLAlchemy's TimeoutError."""
        engine = sa.create_engine(url_for(dsn, "psycopg"), pool_size=1, max_overflow=1, pool_timeout=0.05)
        with engine.connect(), engine.connect():  # HOLDER
            with pytest.raises(sa.exc.TimeoutError) as raised:
                engine.connect()
        note = note_of(raised.value)
        assert len(mark_of(note)) >= 1
        assert "2 of 2" in note
        assert "holds 2" in note
        lab.runtime.beat()
        assert [(event.cause, event.held, event.capacity) for event in lab.refusals] == [("pool", 2, 2)]
        engine.dispose()

    @pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
    def test_sqlalchemy_async(self, lab, dsn, driver):
        """And that of an async engine."""
        pytest.importorskip(driver)

        async def main():
            engine = create_async_engine(url_for(dsn, driver), pool_size=1, max_overflow=0, pool_timeout=0.05)
            async with engine.connect():  # HOLDER
                with pytest.raises(sa.exc.TimeoutError) as raised:
                    await engine.connect()
            note = note_of(raised.value)
            assert len(mark_of(note)) == 1
            assert "this very task" in note
            await engine.dispose()

        asyncio.run(main())


@pytest.fixture
def limited(dsn, postgres):
    """A role with a CONNECTION LIMIT of 2, and a URI that logs in as it."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    role = "limited_role"
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2")
    kept = conninfo_to_dict(dsn)
    yield make_conninfo(**{**kept, "user": role})
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = '{role}'")
        admin.execute(f"DROP ROLE {role}")


@pytest.fixture
def limited_database(dsn, postgres):
    """A database with a CONNECTION LIMIT of 1, whose limit binds the role (not a superuser) of its URI."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE plain_role LOGIN")
        admin.execute("CREATE DATABASE limited_database CONNECTION LIMIT 1")
    kept = conninfo_to_dict(dsn)
    yield make_conninfo(**{**kept, "user": "plain_role", "dbname": "limited_database"})
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("DROP DATABASE limited_database WITH (FORCE)")
        admin.execute("DROP ROLE plain_role")


@pytest.fixture
def full_server(dsn, postgres):
    """Fills the server to the last ordinary slot, with a role that may not use the reserved ones."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE ordinary LOGIN")
    uri = make_conninfo(**{**conninfo_to_dict(dsn), "user": "ordinary"})
    with contextlib.ExitStack() as stack:
        yield uri, stack
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'ordinary'")
        admin.execute("DROP ROLE ordinary")


class TestServer:
    def test_role(self, limited):
        """The role's limit: psycopg's error, which has no sqlstate, has the holders."""
        with laboratory() as lab:
            with psycopg.connect(limited), psycopg.connect(limited):  # HOLDER
                with pytest.raises(psycopg.OperationalError) as raised:
                    psycopg.connect(limited)
                note = note_of(raised.value)
                assert "CONNECTION LIMIT" in note
                assert len(mark_of(note)) >= 1
                lab.runtime.beat()
                event = lab.refusals[0]
                assert (event.cause, event.held, event.capacity, event.pool) == ("role", 2, None, None)

    def test_role_async(self, limited):
        """Asynchronously."""
        with laboratory() as lab:

            async def main():
                async with await psycopg.AsyncConnection.connect(limited) as one:
                    async with await psycopg.AsyncConnection.connect(limited):
                        with pytest.raises(psycopg.OperationalError) as raised:
                            await psycopg.AsyncConnection.connect(limited)
                        note_of(raised.value)
                        assert not one.closed

            asyncio.run(main())
            lab.runtime.beat()
            assert [event.cause for event in lab.refusals] == ["role"]

    def test_by_name(self, limited):
        """Also where `connect` was imported by name before."""
        from psycopg import connect as by_name

        with laboratory(), psycopg.connect(limited), psycopg.connect(limited):
            with pytest.raises(psycopg.OperationalError) as raised:
                by_name(limited)
            note_of(raised.value)

    def test_sqlalchemy(self, limited):
        """SQLAlchemy's wrapping of it has the note once, and one event is told."""
        with laboratory() as lab:
            engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(limited))
            with engine.connect(), engine.connect():  # HOLDER
                with pytest.raises(sa.exc.OperationalError) as raised:
                    engine.connect()
            note = note_of(raised.value)
            assert len(mark_of(note)) >= 1
            lab.runtime.beat()
            assert [event.cause for event in lab.refusals] == ["role"]
            engine.dispose()

    def test_pool_that_cannot_connect(self, limited):
        """A PoolTimeout whose pool was refused says so with the server's words, and names the limit."""
        with laboratory() as lab, psycopg.connect(limited), psycopg.connect(limited):  # HOLDER
            with ConnectionPool(limited, min_size=0, max_size=2, open=True, name="refused") as pool:
                with pytest.raises(PoolTimeout) as raised:
                    pool.getconn(timeout=0.3)
            note = note_of(raised.value)
            assert "too many connections for role" in note
            assert len(mark_of(note)) >= 1
            lab.runtime.beat()
            assert [(event.cause, event.held) for event in lab.refusals] == [("role", 2)]

    def test_database(self, limited_database):
        """The database's limit."""
        with laboratory() as lab, psycopg.connect(limited_database):
            with pytest.raises(psycopg.OperationalError) as raised:
                psycopg.connect(limited_database)
            note_of(raised.value)
            lab.runtime.beat()
            assert [(event.cause, event.held) for event in lab.refusals] == [("database", 1)]

    def test_full(self, full_server):
        """The server is full: told with everything that this process holds there."""
        uri, stack = full_server
        with laboratory() as lab:

            def fill():
                while True:
                    stack.enter_context(psycopg.connect(uri))

            with pytest.raises(psycopg.OperationalError) as raised:
                fill()
            held = len(leakguard.holds())
            assert f"{held} connection(s) held by this process" in note_of(raised.value)
            lab.runtime.beat()
            assert lab.refusals[0].cause in ("server", "reserved")
            assert lab.refusals[0].held == held
            stack.close()

    def test_server_down(self, lab):
        """A PoolTimeout whose server is down says that, and is no exhaustion."""
        with ConnectionPool(
            "postgresql://127.0.0.1:1/nothing", min_size=0, max_size=2, open=True, name="down", reconnect_timeout=0
        ) as pool:
            with pytest.raises(PoolTimeout) as raised:
                pool.getconn(timeout=0.2)
        assert "could not connect" in note_of(raised.value)
        lab.runtime.beat()
        assert lab.refusals == []

    def test_back_again(self, limited):
        """A pool that could connect again is judged by its holds again."""
        with laboratory() as lab, contextlib.ExitStack() as stack:
            stack.enter_context(psycopg.connect(limited))
            other = psycopg.connect(limited)
            pool = stack.enter_context(ConnectionPool(limited, min_size=0, max_size=1, open=True))
            with pytest.raises(PoolTimeout) as raised:
                pool.getconn(timeout=0.2)
            assert "too many connections for role" in note_of(raised.value)
            other.close()
            with pool.connection(timeout=10):
                with pytest.raises(PoolTimeout) as raised:
                    pool.getconn(timeout=0.01)
            assert "too many connections for role" not in note_of(raised.value)
            lab.runtime.beat()
            assert [event.cause for event in lab.refusals] == ["role", "pool"]

    def test_wrong_password_or_database(self, lab, dsn):
        """A connect that fails for another reason has no note."""
        with pytest.raises(psycopg.OperationalError) as raised:
            psycopg.connect(dsn.rsplit("/", 1)[0] + "/no_such_database")
        assert not hasattr(raised.value, "__notes__")
        lab.nothing()
