"""A pool's own count against ours: what is on its way, being opened, or waited for is no lost slot."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import closing

import psycopg
import psycopg2.extensions
import psycopg2.pool
import pytest
import sqlalchemy as sa
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from tests.integrations.support import asteady, auntil, in_thread, steady, until


@pytest.fixture
def deaf():
    """A server that takes connections in and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


@pytest.fixture
def limited(dsn):
    """A URI whose role may have one session."""
    role = "only_one_session"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
        yield psycopg.conninfo.make_conninfo(dsn, user=role)
        conn.execute(f"DROP ROLE {role}")


class TestPsycopgPool:
    def test_a_long_reset(self, lab, dsn):
        """A worker of the pool resets what came back, and the server takes its time."""
        reached, go = threading.Event(), threading.Event()

        def reset(_):
            reached.set()
            go.wait(10)

        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, reset=reset) as pool:
            pool.putconn(pool.getconn())
            assert reached.wait(10)
            lab.nothing()
            go.set()
            steady(pool)
            lab.nothing()

    def test_a_long_rollback(self, lab, dsn):
        """`putconn()` rolls back in the thread that calls it."""
        reached, go = threading.Event(), threading.Event()

        class Slow(psycopg.Connection):
            def rollback(self):
                reached.set()
                go.wait(10)
                super().rollback()

        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, connection_class=Slow) as pool:
            conn = pool.getconn()
            conn.execute("SELECT 1")
            thread = threading.Thread(target=pool.putconn, args=(conn,))
            del conn
            thread.start()
            assert reached.wait(10)
            lab.nothing()
            go.set()
            thread.join()
            lab.nothing()

    def test_lost_on_the_way_in(self, lab, dsn):
        """Their leaking twin: the pool counts a connection that is gone without a trace."""
        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, name="lossy") as pool:
            pool.putconn(pool.getconn())
            steady(pool)
            pool._pool.clear()
            lab.advance(10)
            leak = lab.only("lost_slot", mark=None)
            assert (leak.hold, leak.pool.name) == (None, "lossy")

    def test_workers_that_are_stuck(self, lab, deaf):
        """What waits for a worker, while all of them wait for a server, is counted by the pool and opened by nobody."""
        where = f"host=127.0.0.1 port={deaf.getsockname()[1]} user=nobody"
        with ConnectionPool(where, open=True, num_workers=1, reconnect_timeout=0) as pool:
            record = lab.runtime.tracker.pool_of(pool)
            until(lambda: record.connecting() == 1, "the pool's only worker")
            assert pool.get_stats()["pool_size"] == 4
            lab.nothing()
            deaf.close()

    def test_a_connect_that_will_be_tried_again(self, lab, limited):
        """A pool that could not grow tries again after a while, and counts that connection all along."""
        with ConnectionPool(limited, min_size=1, max_size=2, open=True, reconnect_timeout=86400) as pool:
            pool.wait()
            conn = pool.getconn()
            with pytest.raises(PoolTimeout):
                in_thread(lambda: pool.getconn(timeout=0.2))
            conn.close()
            pool.putconn(conn)  # its successor connects, so the pool's latest word is that all is well
            del conn
            until(lambda: pool.get_stats()["pool_available"] == 1, "the pool's worker")
            assert pool.get_stats()["pool_size"] == 2
            lab.advance(1000)
            assert (lab.kinds, len(lab.refusals)) == ([], 1)

    def test_a_slot_that_is_lost_while_others_wait(self, lab, dsn):
        """Whoever waits for a lost slot does not hide it."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            pool.wait()
            pool._pool.clear()  # its connection is gone, and the pool does not know
            errors = []

            def wait():
                try:
                    pool.getconn(timeout=10)
                except psycopg.Error as error:
                    errors.append(error)

            thread = threading.Thread(target=wait)
            thread.start()
            until(lambda: pool.get_stats().get("requests_waiting") == 1, "somebody who waits")
            lab.advance(10)
            assert lab.only("lost_slot", mark=None).hold is None
            pool.close()
            thread.join()
            assert len(errors) == 1

    def test_cancelled_while_it_gives_back(self, lab, dsn):
        """psycopg_pool 3.3 loses the slot of a task that is cancelled while the pool hands its connection on."""

        async def main():
            async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
                waiter = await cancelled_while_returning(pool, pool.putconn)
                waiter.cancel()
                await asyncio.wait([waiter])
                del waiter
                lab.collect()
                lab.advance(10)
                leak = lab.only("lost_slot", mark=None)
                assert "asyncio.shield(pool.putconn(" in leak.advice
                assert pool.get_stats()["pool_size"] - pool.get_stats()["pool_available"] == 1

        asyncio.run(main())

    def test_cancelled_behind_a_shield(self, lab, dsn):
        """Its clean twin does what the advice says."""

        async def main():
            async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:

                async def shielded(conn):
                    await asyncio.shield(pool.putconn(conn))

                waiter = await cancelled_while_returning(pool, shielded)
                await pool.putconn(await waiter)
                await asteady(pool)
                lab.nothing()

        asyncio.run(main())


async def cancelled_while_returning(pool, give_back):
    """Acquire, and be cancelled while the pool hands the connection to the next in line: a moment that comes by itself
    on a busy loop. Returns the task of the one in line."""
    conn = await pool.getconn()
    waiter = asyncio.create_task(pool.getconn(timeout=10))
    await auntil(lambda: pool._waiting, "somebody in line")
    turnstile = pool._waiting[0]._cond
    await auntil(lambda: not turnstile.locked(), "the one in line to sleep")
    async with turnstile:
        returning = asyncio.create_task(give_back(conn))
        del conn
        await auntil(lambda: not pool._waiting, "the return")
        returning.cancel()
        await asyncio.wait([returning])
        assert returning.cancelled()
    return waiter


class TestSQLAlchemy:
    def test_a_long_close(self, lab, dsn):
        """What was more than the pool keeps is closed at its return, and counted until its server has answered."""
        reached, go = threading.Event(), threading.Event()

        class Slow(psycopg.Connection):
            def close(self):
                reached.set()
                go.wait(10)
                super().close()

        engine = sa.create_engine(
            "postgresql+psycopg://", creator=lambda: Slow.connect(dsn), pool_size=1, max_overflow=1
        )
        kept, more = engine.connect(), in_thread(engine.connect)
        kept.close()
        thread = threading.Thread(target=more.close)
        del kept, more
        thread.start()
        assert reached.wait(10)
        assert engine.pool.checkedout() == 1
        lab.nothing()
        go.set()
        thread.join()
        lab.nothing()
        engine.dispose()


class TestPsycopg2Pool:
    def test_a_long_rollback(self, lab, dsn):
        """`putconn()` rolls back what was left open."""
        reached, go = threading.Event(), threading.Event()

        class Slow(psycopg2.extensions.connection):
            def rollback(self):
                reached.set()
                go.wait(10)
                super().rollback()

        pool = psycopg2.pool.ThreadedConnectionPool(1, 2, dsn, connection_factory=Slow)
        conn = pool.getconn()
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
        thread = threading.Thread(target=pool.putconn, args=(conn,))
        del conn, cursor
        thread.start()
        assert reached.wait(10)
        lab.nothing()
        go.set()
        thread.join()
        lab.nothing()
        pool.closeall()
