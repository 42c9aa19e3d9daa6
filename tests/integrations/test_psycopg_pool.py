"""psycopg_pool: ConnectionPool, NullConnectionPool and their async twins."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import psycopg
import psycopg_pool
import pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool

import leakguard
from tests.integrations.support import aactive, aheld, asteady, auntil, in_thread, laboratory, steady, until

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

VERSION = tuple(int(part) for part in psycopg_pool.__version__.split(".")[:2])
HAS_CLOSE_RETURNS = VERSION >= (3, 3)


@pytest.fixture(params=[ConnectionPool, NullConnectionPool], ids=["pool", "null"])
def pool(request, lab, dsn):
    """A small pool of each class, open."""
    size = 0 if request.param is NullConnectionPool else 1
    with request.param(dsn, min_size=size, max_size=2, timeout=5, open=True, name="small") as pool:
        pool.wait()
        yield pool


@pytest.fixture
def full_pool(lab, dsn):
    """A ConnectionPool of two connections."""
    with ConnectionPool(dsn, min_size=2, max_size=2, timeout=5, open=True, name="small") as pool:
        pool.wait()
        yield pool


async_pools = pytest.mark.parametrize("cls", [AsyncConnectionPool, AsyncNullConnectionPool], ids=["pool", "null"])


def opened(cls, dsn, **more):
    size = 0 if cls is AsyncNullConnectionPool else 1
    return cls(dsn, **{"min_size": size, "max_size": 2, "timeout": 5, "open": False, "name": "small", **more})


class TestCheckouts:
    def test_dropped(self, lab, pool):
        """A checkout that is garbage-collected costs the pool its slot, which psycopg_pool never says."""

        def leak():
            conn = pool.getconn()  # LEAK
            conn.execute("SELECT 1")

        leak()
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed) == (True, False)
        assert (leak.hold.library, leak.hold.operation, leak.hold.pool) == ("psycopg_pool", "getconn", "small")
        assert (leak.pool.name, leak.pool.capacity, leak.pool.created_at.function) == ("small", 2, "pool")
        assert lab.counts() == (1, 0, 0, 1)
        lab.advance(30)  # the lost slot is explained: it is no second leak
        assert lab.kinds == ["dropped"]

    def test_clean(self, lab, pool):
        """`connection()`, getconn and putconn, also with an exception in between: nothing to say."""
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as conn:
            conn.execute("SELECT 1/0")
        conn = pool.getconn()
        try:
            conn.execute("SELECT 1")
        finally:
            pool.putconn(conn)
        del conn
        assert lab.counts() == (3, 3, 0, 0)
        if not isinstance(pool, NullConnectionPool):
            steady(pool)
        lab.nothing()

    def test_with_getconn(self, lab, full_pool):
        """`with pool.getconn()` commits and does not return: psycopg's `__exit__` skips `close()` for a pool."""

        def leak():
            with full_pool.getconn() as conn:  # LEAK
                conn.execute("SELECT 1")

        leak()
        lab.collect()
        assert lab.only("dropped").healed is False

    def test_with_connection_is_clean(self, lab, full_pool):
        """Its look-alike `with pool.connection()` returns."""
        with full_pool.connection() as conn:
            conn.execute("SELECT 1")
        del conn
        steady(full_pool)
        lab.nothing()

    def test_abandoned_context_manager(self, lab, full_pool):
        """`connection()` entered by hand and forgotten is finalised by its generator, which returns it."""
        full_pool.connection().__enter__()
        gc.collect()
        steady(full_pool)
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_overdue_and_recovered(self, lab, full_pool):
        """A checkout held beyond the threshold is a suspicion; its return is told with its total time."""
        conn = full_pool.getconn()  # LEAK
        lab.advance(59)
        assert lab.kinds == []
        lab.advance(2)
        leak = lab.only("overdue")
        assert leak.certain is False
        lab.advance(9)
        full_pool.putconn(conn)
        lab.runtime.beat()
        assert [(event.kind, 69 < event.held_for < 72) for event in lab.recovered] == [("overdue", True)]
        del conn
        steady(full_pool)
        lab.advance(100)
        assert lab.kinds == ["overdue"]

    def test_short_of_overdue(self, lab, full_pool):
        """A checkout that comes back a moment before the threshold, a hundred times, is none of our business."""
        for _ in range(3):
            with full_pool.connection():
                lab.advance(59.5)
        steady(full_pool)
        lab.nothing()

    def test_expected_long(self, lab, full_pool):
        """`expect_long()` gives what is acquired inside a limit of its own, and only that."""
        with leakguard.expect_long("a nightly export", threshold=300):
            conn = full_pool.getconn()
        other = full_pool.getconn()  # LEAK
        lab.advance(290)
        assert sorted(lab.kinds) == ["nested_acquire", "overdue"]
        lab.advance(20)
        assert sorted(lab.kinds) == ["nested_acquire", "overdue", "overdue"]
        for one in (conn, other):
            full_pool.putconn(one)

    def test_overdue_while_active(self, lab, full_pool):
        """A statement that runs at that moment is told as `active`: slow, not leaked."""
        conn = full_pool.getconn()  # LEAK

        def sleep():
            with pytest.raises(psycopg.errors.QueryCanceled):
                conn.execute("SELECT pg_sleep(60)")

        thread = threading.Thread(target=sleep)
        thread.start()
        until(lambda: leakguard.holds()[0].state == "active")
        lab.advance(61)
        assert lab.only("overdue").hold.state == "active"
        while thread.is_alive():
            conn.cancel()
            thread.join(0.02)
        full_pool.putconn(conn)

    def test_overdue_then_dropped(self, lab, full_pool):
        """First suspicion, then proof: both are told, and it never recovers."""

        holder = []

        def hold():
            holder.append(full_pool.getconn())  # LEAK

        hold()
        lab.advance(61)
        holder.clear()
        lab.collect()
        assert lab.kinds == ["overdue", "dropped"]
        assert lab.recovered == []
        assert lab.counts() == (1, 0, 0, 1)

    def test_orphaned(self, lab, full_pool):
        """A checkout that outlives its thread is a leak after the grace; its late return still counts as one."""
        conn = in_thread(lambda: full_pool.getconn(), "worker-1")  # LEAK
        lab.advance(6)
        assert lab.only("orphaned").hold.owner.thread == "worker-1"
        full_pool.putconn(conn)
        assert lab.counts() == (1, 1, 0, 0)

    def test_returned_by_another_thread(self, lab, full_pool):
        """A checkout may be returned elsewhere than it was acquired."""
        handed = [in_thread(full_pool.getconn)]
        in_thread(lambda: full_pool.putconn(handed.pop()))
        steady(full_pool)
        lab.nothing()

    def test_held_at_exit(self, lab, full_pool):
        """At exit a pool checkout is reported as outstanding, without certainty."""
        conn = full_pool.getconn()  # LEAK
        lab.runtime.at_exit()
        leak = lab.only("outstanding")
        assert (leak.boundary, leak.certain) == ("exit", False)
        full_pool.putconn(conn)


class TestLostSlots:
    def test_closed(self, lab, full_pool):
        """A checkout that is closed instead of returned has lost its slot, once the grace is over."""
        conn = full_pool.getconn()  # LEAK
        conn.close()
        lab.advance(4.5)
        assert lab.kinds == []
        assert leakguard.holds()[0].state == "closed"
        lab.advance(1)
        leak = lab.only("lost_slot")
        assert leak.certain
        assert leak.hold.state == "closed"
        full_pool.putconn(conn)
        assert lab.counts() == (1, 1, 0, 0)

    def test_closed_late(self, lab, full_pool):
        """One that is closed long after its acquisition is found as soon, within a second of the grace."""
        leakguard.install(threshold=None)
        conn = full_pool.getconn()  # LEAK
        lab.advance(100)
        conn.close()
        lab.advance(4.5)
        assert lab.kinds == []
        lab.advance(1.5)
        lab.only("lost_slot")
        full_pool.putconn(conn)

    def test_closed_then_dropped(self, lab, full_pool):
        """Closed and forgotten at once: the drop tells of it."""

        def leak():
            full_pool.getconn().close()  # LEAK

        leak()
        lab.collect()
        lab.advance(100)
        leak = lab.only("dropped")
        assert leak.hold.state == "closed"
        assert "closed instead of returned" in leak.reason

    def test_closed_and_returned(self, lab, full_pool):
        """A closed connection that is put back is replaced by the pool: nothing is lost."""
        conn = full_pool.getconn()
        conn.close()
        full_pool.putconn(conn)
        del conn
        steady(full_pool)
        lab.nothing()

    @pytest.mark.skipif(not HAS_CLOSE_RETURNS, reason="psycopg_pool has no close_returns before 3.3")
    def test_close_returns(self, lab, dsn):
        """With `close_returns` a close is a return."""
        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, close_returns=True) as pool:
            pool.wait()
            for _ in range(3):
                pool.getconn().close()
            steady(pool)
            assert lab.counts() == (3, 3, 0, 0)
            lab.nothing()

    @pytest.mark.skipif(not HAS_CLOSE_RETURNS, reason="psycopg_pool has no close_returns before 3.3")
    def test_close_returns_with_getconn(self, lab, dsn):
        """`with pool.getconn()` does not return even then."""

        def leak(pool):
            with pool.getconn() as conn:  # LEAK
                conn.execute("SELECT 1")

        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, close_returns=True) as pool:
            pool.wait()
            leak(pool)
            lab.collect()
            lab.only("dropped")

    def test_by_accounting(self, lab, full_pool):
        """A slot that is lost below every hook is seen in the pool's own accounts, once, and names the pool's birth."""
        lost = ConnectionPool.getconn.__wrapped__(full_pool)
        lab.nothing()  # somebody has it, and may give it back
        del lost
        lab.advance(4)
        assert lab.kinds == []
        lab.advance(5)
        leak = lab.only("lost_slot", mark=None)
        assert (leak.hold, leak.certain, leak.site.function) == (None, True, "full_pool")
        lab.advance(100)
        assert lab.kinds == ["lost_slot"]

    def test_by_accounting_after_a_timeout(self, lab, dsn):
        """Acquires that failed leave no trace in the accounts that could hide a lost slot."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            ConnectionPool.getconn.__wrapped__(pool)
            for _ in range(3):
                with pytest.raises(psycopg_pool.PoolTimeout):
                    pool.getconn(timeout=0.001)
            lab.advance(10)
            assert lab.only("lost_slot", mark=None).hold is None

    def test_each_by_accounting(self, lab, full_pool):
        """Two lost slots are two leaks."""
        for _ in range(2):
            ConnectionPool.getconn.__wrapped__(full_pool)
        lab.advance(60)
        assert lab.summary().leaks == {"lost_slot": 2}

    def test_accounts_in_order(self, lab, full_pool):
        """Connections that are out and known, at home, or being made are no lost slots, whatever the load."""
        stop = threading.Event()

        def work():
            while not stop.is_set():
                with full_pool.connection() as conn:
                    conn.execute("SELECT 1")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            lab.advance(3)
        stop.set()
        for thread in threads:
            thread.join()
        steady(full_pool)
        lab.collect()
        assert "lost_slot" not in lab.kinds  # overdue is what some are in this mad clock
        acquired, released, held, leaked = lab.counts()
        assert (acquired, held, leaked) == (released, 0, 0)


class TestMisuse:
    def test_returned_twice(self, lab, full_pool):
        """A second putconn fails as ever and changes no count."""
        conn = full_pool.getconn()
        full_pool.putconn(conn)
        steady(full_pool)
        with pytest.raises(ValueError):
            full_pool.putconn(conn)
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_foreign(self, lab, full_pool, dsn):
        """putconn of another pool's connection fails as ever, and that one is still held."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True, name="other") as other:
            conn = other.getconn()
            with pytest.raises(ValueError):
                full_pool.putconn(conn)
            assert [hold.pool for hold in leakguard.holds()] == ["other"]
            assert lab.counts() == (1, 0, 1, 0)
            other.putconn(conn)
            assert lab.counts() == (1, 1, 0, 0)

    def test_foreign_direct(self, lab, full_pool, dsn):
        """putconn of a direct connection fails as ever, and that one is still open."""
        with psycopg.connect(dsn) as conn:
            with pytest.raises(ValueError):
                full_pool.putconn(conn)
            assert len(leakguard.holds()) == 1
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_refused_return(self, lab, full_pool):
        """A return that the pool itself refuses leaves the hold as it was."""
        conn = full_pool.getconn()
        conn._pool = None  # as after a return that somebody else made behind our back
        with pytest.raises(ValueError):
            full_pool.putconn(conn)
        assert lab.counts() == (1, 0, 1, 0)
        conn._pool = full_pool
        full_pool.putconn(conn)
        assert lab.counts() == (1, 1, 0, 0)
        assert lab.tracker.owners.current().open == {}

    def test_closed_pool_with_outstanding(self, lab, full_pool):
        """Closing the pool ends no hold: what is out is still out, and its return afterwards is a return."""
        conn = full_pool.getconn()
        full_pool.close()
        assert len(leakguard.holds()) == 1
        full_pool.putconn(conn)
        assert conn.closed
        del conn
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_closed_pool_then_dropped(self, lab, full_pool):
        """What is dropped after its pool was closed is dropped all the same."""

        def leak():
            conn = full_pool.getconn()  # LEAK
            full_pool.close()
            conn.execute("SELECT 1")

        leak()
        lab.collect()
        lab.only("dropped")

    def test_allowed(self, lab, full_pool):
        """What is allowed is left alone in every way."""
        conn = full_pool.getconn()
        leakguard.allow(conn, "the listener of this process")
        lab.advance(1000)
        full_pool.putconn(conn)
        lab.nothing()


class TestPools:
    def test_min_size_is_not_reported(self, lab, full_pool):
        """What the pool opens for itself is no hold, idle for however long."""
        lab.advance(5000)
        assert leakguard.holds() == []
        assert lab.counts() == (0, 0, 0, 0)
        lab.nothing()

    @pytest.mark.slow
    def test_resize_and_shrink(self, lab, full_pool):
        """Growing, shrinking and `check()` are the pool's own affair."""
        full_pool.resize(3, 4)
        steady(full_pool)
        full_pool.check()
        full_pool.resize(1, 2)
        steady(full_pool)  # a worker may be between connecting and giving it to the pool; the clock here would not wait
        lab.advance(10)
        lab.nothing()

    @pytest.mark.skipif(VERSION < (3, 3), reason="psycopg_pool has no drain() before 3.3")
    def test_drain(self, lab, full_pool):
        """After drain() what is out is closed on its return, and replaced."""
        conn = full_pool.getconn()
        full_pool.drain()
        full_pool.putconn(conn)
        del conn
        steady(full_pool)
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_callbacks(self, lab, dsn):
        """configure, check and reset run statements on connections that nobody holds."""

        def run(conn):
            conn.execute("SELECT 1")
            conn.rollback()

        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, configure=run, reset=run, check=run) as pool:
            pool.wait()
            for _ in range(3):
                with pool.connection() as conn:
                    conn.execute("SELECT 1")
                steady(pool)
            del conn
            lab.advance(1)
            assert lab.counts() == (3, 3, 0, 0)
            lab.nothing()

    def test_failed_check(self, lab, dsn, kill):
        """A connection that fails its check is replaced before anybody has it: one hold, no leak."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True, check=ConnectionPool.check_connection) as pool:
            pool.wait()
            with pool.connection() as conn:
                pid = conn.info.backend_pid
            steady(pool)
            kill(pid)
            with pool.connection() as conn:
                assert conn.info.backend_pid != pid
            del conn
            steady(pool)
            assert lab.counts() == (2, 2, 0, 0)
            lab.nothing()

    def test_server_killed_while_out(self, lab, full_pool, kill):
        """A connection that breaks while it is out and is returned is replaced: no slot lost."""
        conn = full_pool.getconn()
        kill(conn.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        full_pool.putconn(conn)
        del conn
        steady(full_pool)
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_server_killed_and_kept(self, lab, full_pool, kill):
        """One that breaks was not closed by its holder: kept for a while and returned, it has lost no slot."""
        conn = full_pool.getconn()
        kill(conn.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        lab.advance(30)
        full_pool.putconn(conn)
        del conn
        steady(full_pool)
        lab.nothing()

    def test_server_killed_and_dropped(self, lab, full_pool, kill):
        """One that breaks while it is out and is never returned has still lost its slot."""

        def leak():
            conn = full_pool.getconn()  # LEAK
            kill(conn.info.backend_pid)
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")

        leak()
        lab.collect()
        lab.only("dropped")

    def test_opened_before(self, dsn):
        """A pool that is older than leakguard is watched from now on; what was out before is not ours to judge."""
        with ConnectionPool(dsn, min_size=2, max_size=3, open=True, name="elder") as pool:
            pool.wait()
            before = pool.getconn()
            with laboratory() as lab:

                def leak():
                    pool.getconn()  # LEAK

                leak()
                lab.collect()
                lab.advance(30)
                leak = lab.only("dropped")
                assert leak.hold.server.backend_pid
                assert lab.tracker.pool_of(pool).wires == {}  # its one known connection is gone
                with pool.connection():
                    assert len(lab.tracker.pool_of(pool).wires) == 1
                pool.putconn(before)
                assert lab.counts() == (2, 1, 0, 1)

    def test_opened_before_clean(self, dsn):
        """Its clean twin: returned before and after."""
        with ConnectionPool(dsn, min_size=2, max_size=3, open=True) as pool:
            pool.wait()
            before = pool.getconn()
            with laboratory() as lab:
                with pool.connection():
                    assert len(lab.tracker.pool_of(pool).wires) == 1
                pool.putconn(before)
                del before
                steady(pool)
                assert lab.counts() == (1, 1, 0, 0)
                lab.nothing()

    def test_watch_one(self, lab, dsn, full_pool):
        """A pool given to watch() is judged by that guard alone."""
        events = []
        with ConnectionPool(dsn, min_size=1, max_size=2, open=True, name="watched") as pool:
            with leakguard.watch(pool, threshold=5.0, on_leak=events.append) as guard:
                conn, other = pool.getconn(), full_pool.getconn()
                lab.advance(6)
                assert [event.kind for event in events] == ["overdue"]
                assert lab.kinds == []
                assert [hold.pool for hold in guard.holds()] == ["watched"]
                pool.putconn(conn)
                full_pool.putconn(other)
                assert guard.summary().acquired == lab.summary().acquired == 1

    def test_unclosed(self, lab, dsn):
        """A pool that is garbage-collected while it has server connections was never closed."""

        def leak():
            pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True, name="forgotten")  # LEAK
            pool.wait()
            return weakref.ref(pool)

        pool = leak()
        until(lambda: pool() is None, "the pool's end")  # the worker that connected holds it for a moment longer
        lab.collect()
        leak = lab.only("unclosed_pool")
        assert (leak.hold, leak.certain, leak.site.function) == (None, True, "leak")

    def test_closed(self, lab, dsn):
        """Its clean twins: closed, or never opened."""

        def clean():
            pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True)
            pool.wait()
            pool.close()
            ConnectionPool(dsn, min_size=1, max_size=1, open=False)

        clean()
        lab.nothing()

    def test_subclass(self, lab, dsn):
        """A pool's subclass that overrides getconn and putconn counts each checkout once."""

        class Mine(ConnectionPool):
            def getconn(self, timeout=None):
                return super().getconn(timeout)

            def putconn(self, conn):
                super().putconn(conn)

        with Mine(dsn, min_size=1, max_size=1, open=True) as pool:
            with pool.connection():
                pass
            steady(pool)
            assert lab.counts() == (1, 1, 0, 0)
            lab.nothing()


class TestNested:
    def test_nested(self, lab, full_pool):
        """A second checkout of one pool by one thread is advice, told with the place of the first."""
        with full_pool.connection():
            inner = full_pool.getconn()  # LEAK
            full_pool.putconn(inner)
        lab.runtime.beat()
        leak = lab.only("nested_acquire")
        assert leak.certain is False
        assert "already holds a connection of this pool" in leak.reason

    @pytest.mark.parametrize("kept_on_purpose", [True, False])
    def test_beside_what_an_earlier_job_has_kept(self, lab, dsn, kept_on_purpose):
        """A thread of an executor may hold other connections of the pool: what counts is this job's own."""
        kept = []

        def listen():
            kept.append(pool.getconn())
            if kept_on_purpose:
                leakguard.allow(kept[0], "listens")

        def nest():
            with pool.connection(), pool.connection():  # LEAK
                pass

        def innocent():
            with pool.connection():
                pass

        with ConnectionPool(dsn, min_size=1, max_size=4, open=True) as pool, ThreadPoolExecutor(1) as thread:
            for job in (listen, innocent):
                thread.submit(job).result()
            lab.runtime.beat()
            assert lab.kinds == []
            thread.submit(nest).result()
            lab.runtime.beat()
            assert lab.only("nested_acquire").site.function == "nest"
            pool.putconn(kept.pop())

    def test_beside_what_is_kept_on_purpose(self, lab, dsn):
        """The second one that is taken beside it is nested in the first one."""
        with ConnectionPool(dsn, min_size=1, max_size=4, open=True) as pool:
            kept = pool.getconn()
            leakguard.allow(kept, "listens")
            with pool.connection():
                lab.runtime.beat()
                assert lab.kinds == []
                with pool.connection():  # LEAK
                    pass
            lab.runtime.beat()
            lab.only("nested_acquire")
            pool.putconn(kept)

    def test_before_it_blocks(self, lab, dsn):
        """It is judged at the attempt, before that can block."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            outer = pool.getconn()
            seen = []

            def watchdog():
                until(lambda: bool(lab.runtime.beat() or lab.kinds))
                seen.append(lab.kinds[0])
                pool.putconn(outer)

            thread = threading.Thread(target=watchdog)
            thread.start()
            inner = pool.getconn()  # LEAK
            thread.join()
            assert seen == ["nested_acquire"]
            lab.only("nested_acquire")
            pool.putconn(inner)

    def test_nested_and_refused(self, lab, dsn):
        """An attempt that times out was nested all the same, and holds nothing."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            with pytest.raises(psycopg_pool.PoolTimeout):
                pool.getconn(timeout=0.05)
            lab.runtime.beat()
            assert lab.kinds == ["nested_acquire"]
            assert lab.counts() == (1, 0, 1, 0)

    def test_not_nested(self, lab, full_pool, dsn):
        """Two pools, two threads, and one after the other are not nested."""
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as other:
            with full_pool.connection(), other.connection():
                in_thread(lambda: full_pool.putconn(full_pool.getconn()))
            with full_pool.connection():
                pass
            with full_pool.connection():
                pass
            steady(full_pool)
            steady(other)
            lab.nothing()

    def test_two_tasks_are_not_nested(self, lab, dsn):
        """Two tasks of one thread hold a connection each, at the same time."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:

                async def work():
                    async with pool.connection() as conn:
                        await conn.execute("SELECT pg_sleep(0.01)")

                await asyncio.gather(work(), work())
                await asteady(pool)

        asyncio.run(main())
        assert lab.counts() == (2, 2, 0, 0)
        lab.nothing()


class TestAsync:
    @async_pools
    def test_dropped(self, lab, dsn, cls):
        """A dropped checkout of an asynchronous pool."""

        async def leak(pool):
            conn = await pool.getconn()  # LEAK
            await conn.execute("SELECT 1")

        async def main():
            async with opened(cls, dsn) as pool:
                await leak(pool)
                lab.collect()
                leak_ = lab.only("dropped")
                assert (leak_.hold.library, leak_.hold.pool) == ("psycopg_pool", "small")

        asyncio.run(main())
        assert lab.counts() == (1, 0, 0, 1)

    def test_with_getconn(self, lab, dsn):
        """`async with await pool.getconn()` does not return."""

        async def leak(pool):
            async with await pool.getconn() as conn:  # LEAK
                await conn.execute("SELECT 1")

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                await leak(pool)
                lab.collect()

        asyncio.run(main())
        lab.only("dropped")

    @async_pools
    def test_clean(self, lab, dsn, cls):
        """`connection()`, getconn and putconn, cancelled inside `async with`: nothing to say."""

        async def main():
            async with opened(cls, dsn) as pool:
                async with pool.connection() as conn:
                    await conn.execute("SELECT 1")
                conn = await pool.getconn()
                await pool.putconn(conn)

                async def slow():
                    async with pool.connection() as conn:
                        await conn.execute("SELECT pg_sleep(30)")

                task = asyncio.create_task(slow())
                await aactive()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if cls is AsyncConnectionPool:
                    await asteady(pool)

        asyncio.run(main())
        assert lab.counts() == (3, 3, 0, 0)
        lab.nothing()

    def test_cancelled_while_holding(self, lab, dsn):
        """A task that is cancelled while it holds a checkout without try/finally loses it."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:

                async def work():
                    conn = await pool.getconn()  # LEAK
                    await asyncio.sleep(30)
                    await pool.putconn(conn)

                task = asyncio.create_task(work())
                await aheld()
                task.cancel()
                await asyncio.wait([task])
                del task
                lab.collect()

        asyncio.run(main())
        lab.only("dropped")

    def test_cancelled_getconn(self, lab, dsn):
        """A getconn that is cancelled while it waits loses no slot and is no hold."""

        async def main():
            async with opened(AsyncConnectionPool, dsn, max_size=1) as pool:
                conn = await pool.getconn()
                waiter = asyncio.create_task(pool.getconn())
                await auntil(lambda: pool.get_stats().get("requests_waiting"), "somebody who waits")
                waiter.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiter
                await pool.putconn(conn)
                await asteady(pool)
                lab.advance(30)

        asyncio.run(main())
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_fetched_by_the_library_alone(self, lab, dsn):
        """`create_task(pool.getconn())` fetches for whoever awaits it: its end orphans nothing."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                conn = await asyncio.create_task(pool.getconn())
                lab.advance(50)
                assert leakguard.holds()[0].site is None
                await pool.putconn(conn)
                await asteady(pool)

        asyncio.run(main())
        lab.nothing()

    def test_orphaned(self, lab, dsn):
        """A checkout that its task leaves to nobody is an orphan, and named after the task."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                kept = []

                async def work():
                    kept.append(await pool.getconn())  # LEAK

                await asyncio.create_task(work(), name="request-7")
                lab.advance(7)
                assert lab.only("orphaned").hold.owner.task == "request-7"
                await pool.putconn(kept.pop())

        asyncio.run(main())

    def test_closed(self, lab, dsn):
        """conn.close() on an asynchronous checkout loses the slot alike."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                conn = await pool.getconn()  # LEAK
                await conn.close()
                lab.advance(6)
                assert "await" in lab.only("lost_slot").advice
                await pool.putconn(conn)

        asyncio.run(main())

    def test_by_accounting(self, lab, dsn):
        """Lost below every hook, asynchronously."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                await AsyncConnectionPool.getconn.__wrapped__(pool)
                await asteady(pool, out=1)
                lab.advance(10)
                assert lab.only("lost_slot", mark=None).hold is None

        asyncio.run(main())

    def test_returned_twice(self, lab, dsn):
        """A second putconn fails as ever and changes no count."""

        async def main():
            async with opened(AsyncConnectionPool, dsn) as pool:
                conn = await pool.getconn()
                await pool.putconn(conn)
                await asteady(pool)
                with pytest.raises(ValueError):
                    await pool.putconn(conn)

        asyncio.run(main())
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()


def test_raise_from_the_next_acquire(dsn):
    """With `on_leak="raise"` the next acquire raises what was found, once, and then works; advice never raises."""
    with laboratory(on_leak="raise") as lab, ConnectionPool(dsn, min_size=1, max_size=3, open=True) as pool:

        def leak():
            pool.getconn()

        leak()
        lab.collect()
        with pytest.raises(leakguard.ConnectionLeakError) as raised:
            pool.getconn()
        assert [leak.kind for leak in raised.value.leaks] == ["dropped"]
        with pool.connection(), pool.connection():
            lab.runtime.beat()
        with pool.connection():
            pass
        assert lab.counts() == (4, 3, 0, 1)


def test_a_connection_that_the_server_ended_is_not_open(lab, dsn):
    """A pool drops a broken connection without closing it: nothing of it is left on the server."""
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        with psycopg.connect(dsn, autocommit=True) as admin, pool.connection() as conn:
            admin.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
            with pytest.raises(psycopg.OperationalError):
                conn.execute("SELECT 1")
        assert lab.tracker.pool_of(pool) is not None
        steady(pool)
        open_wires = [wire for wire in lab.tracker.pool_of(pool).wires.values() if wire.is_open]
        assert len(open_wires) == 1, "only the one that replaced it"
    lab.nothing()
