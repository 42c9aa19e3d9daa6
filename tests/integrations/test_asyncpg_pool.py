"""asyncpg.Pool: what it lends, who has forgotten it, and that nothing else is said."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import traceback
import weakref

import pytest

import leakguard
from leakguard import libraries
from leakguard.integrations.asyncpg import _Pools
from tests.integrations.support import MARK, aactive, aheld, auntil, in_thread, laboratory, url_for

asyncpg = pytest.importorskip("asyncpg")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

VERSION = tuple(int(part) for part in asyncpg.__version__.split(".")[:2])


@pytest.fixture
def run(lab, dsn):
    """Runs ``main(pool)`` in a loop of its own, with a pool of two that is terminated at the end."""

    def run(main, **options):
        async def body():
            pool = await asyncpg.create_pool(dsn, **{"min_size": 2, "max_size": 2, **options})
            await asyncio.sleep(0)
            gc.collect()  # asyncpg 0.31 leaves a cycle that refers to the connection at each connect
            try:
                return await main(pool)
            finally:
                pool.terminate()

        return asyncio.run(body())

    return run


async def quiet(pool):
    """Wait until no release is under way any more."""
    async with asyncio.timeout(5):
        while pool._queue.qsize() < pool.get_max_size():
            await asyncio.sleep(0.001)


class TestDropped:
    def test_dropped(self, lab, run):
        """What only the pool refers to can never be given back: found within a second, told once, and still held."""

        async def leak(pool):
            con = await pool.acquire()  # LEAK
            await con.fetchval("SELECT 1")

        async def main(pool):
            await leak(pool)
            lab.advance(1)
            found = lab.only("dropped")
            assert (found.certain, found.healed) == (True, False)
            assert (found.hold.library, found.hold.operation, found.hold.state) == ("asyncpg_pool", "acquire", "idle")
            assert (found.pool.name, found.pool.capacity, found.pool.open) == ("asyncpg-pool-1", 2, 2)
            assert found.pool.created_at.function == "body"
            assert 'Nobody but pool "asyncpg-pool-1"' in found.reason
            assert "async with pool.acquire()" in found.advice
            lab.advance(30)
            assert lab.guard.check() != []
            assert lab.counts() == (1, 0, 1, 0)
            assert [hold.id for hold in leakguard.holds()] == [found.hold.id]

        run(main)
        assert lab.kinds == ["dropped"]
        assert lab.counts() == (1, 1, 0, 0)  # the pool's end has ended it

    def test_clean(self, lab, run):
        """Its twins: what the pool offers is balanced, and nothing is said of it."""

        async def main(pool):
            async with pool.acquire() as con:
                await con.fetchval("SELECT 1")
            con = await pool.acquire()
            try:
                await con.fetchval("SELECT 1")
            finally:
                await pool.release(con)
            await pool.release(con)  # a second time: asyncpg says nothing, and nothing happens
            assert await pool.fetch("SELECT 1") == [(1,)]
            assert await pool.fetchrow("SELECT 1") == (1,)
            assert await pool.fetchval("SELECT 1") == 1
            await pool.execute("CREATE TABLE things (id int)")
            await pool.executemany("INSERT INTO things VALUES ($1)", [(1,), (2,)])
            await pool.copy_records_to_table("things", records=[(3,)])
            with pytest.raises(asyncpg.DivisionByZeroError):
                await pool.execute("SELECT 1/0")
            await asyncio.gather(*(pool.fetchval("SELECT pg_sleep(0.001)") for _ in range(5)))
            assert lab.counts() == (14, 14, 0, 0)
            await quiet(pool)
            await pool.close()

        run(main)
        lab.nothing()

    @pytest.mark.parametrize(
        "keep",
        [
            lambda con: con,
            lambda con: con.fetchval,
            lambda con: con.transaction(),
            lambda con: con.cursor("SELECT 1"),
            lambda con: con._con,
            lambda con: con.fetchval("SELECT 1"),
        ],
        ids=["proxy", "method", "transaction", "cursor", "connection", "coroutine"],
    )
    def test_held_by(self, lab, run, keep):
        """Whoever can reach the connection, past the proxy too, may still use it: only after that is it dropped."""

        async def acquire(pool):
            return keep(await pool.acquire())  # LEAK

        async def main(pool):
            kept = await acquire(pool)
            lab.advance(20)
            lab.collect()
            assert lab.kinds == []
            if asyncio.iscoroutine(kept):
                kept.close()
            del kept
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_prepared_statement(self, lab, run):
        """A prepared statement refers to its connection."""

        async def prepare(pool):
            return await (await pool.acquire()).prepare("SELECT 1")  # LEAK

        async def main(pool):
            statement = await prepare(pool)
            lab.advance(10)
            assert await statement.fetchval() == 1
            lab.advance(10)
            assert lab.kinds == []
            del statement
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_transaction_of_a_temporary(self, lab, run):
        """`async with (await pool.acquire()).transaction():` is in order while it lasts, and a leak after it."""

        async def work(pool):
            async with (await pool.acquire()).transaction():  # LEAK
                lab.advance(20)
                lab.collect()
                assert lab.kinds == []

        async def main(pool):
            await work(pool)
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_running_statement(self, lab, run):
        """A statement that runs in a task of its own holds the connection."""

        async def start(pool):
            return asyncio.create_task((await pool.acquire()).execute("SELECT pg_sleep(0.2)"))  # LEAK

        async def main(pool):
            task = await start(pool)
            await aactive()
            lab.advance(20)
            assert (lab.kinds, leakguard.holds()[0].state) == ([], "active")
            await task
            del task
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_listener(self, lab, run):
        """What listens for notifications is in use, whoever has it: a notification hands it to the listener."""

        async def listen(pool, heard):
            con = await pool.acquire()
            await con.add_listener("news", lambda *told: heard.append(told))

        async def main(pool):
            heard = []
            await listen(pool, heard)
            lab.advance(20)
            lab.collect()
            await asyncio.create_task(pool.execute("NOTIFY news, 'hello'"))
            async with asyncio.timeout(5):
                while not heard:
                    await asyncio.sleep(0.001)
            con = heard[0][0]
            con._con._listeners.clear()
            await pool.release(con)

        run(main)
        lab.nothing()

    def test_suspended(self, lab, run):
        """A coroutine, a generator or a context that nobody has finished holds what it has acquired."""

        async def consume(pool):
            async with pool.acquire() as con:
                async with con.transaction():
                    async for row in con.cursor("SELECT generate_series(1, 200)"):
                        yield row

        async def main(pool):
            rows = consume(pool)
            await anext(rows)
            context = pool.acquire()
            await asyncio.create_task(context.__aenter__())
            lab.advance(4)
            lab.collect()
            assert lab.kinds == []
            await rows.aclose()
            await context.__aexit__()
            await quiet(pool)

        run(main)
        assert lab.counts() == (2, 2, 0, 0)
        lab.nothing()

    def test_in_a_cycle_of_garbage(self, lab, run):
        """A checkout in a cycle, such as that of a traceback, is dropped once the collector has come by."""

        async def leak(pool):
            things = [await pool.acquire()]  # LEAK
            things.append(things)

        async def main(pool):
            await leak(pool)
            lab.advance(5)
            assert lab.kinds == []
            gc.collect()
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_two_looks(self, lab, run):
        """One look is not enough: a connection that the library itself passes on is nobody's for an instant."""

        async def main(pool):
            con = await pool.acquire()
            holder = con._holder
            lab.moment += 1
            lab.runtime.beat()
            del con
            lab.runtime.beat()
            con = holder._proxy
            lab.advance(20)
            del con
            lab.moment += 0.05
            lab.runtime.beat()
            con = holder._proxy
            await pool.release(con)

        run(main)
        lab.nothing()

    def test_check_and_boundary(self, lab, run):
        """`check()` and `no_leaks()` collect, and need no second look: nobody else runs meanwhile."""

        async def leak(pool):
            await pool.acquire()  # LEAK

        async def main(pool):
            await leak(pool)
            assert [leak.kind for leak in lab.guard.check()] == ["dropped"]
            with pytest.raises(leakguard.ConnectionLeakError) as raised:
                async with leakguard.no_leaks():
                    await leak(pool)
            assert [leak.kind for leak in raised.value.leaks] == ["dropped"]

        run(main)

    def test_allowed(self, lab, run):
        """What is held on purpose is not judged; `allow()` takes the proxy that the pool handed out."""

        async def acquire(pool):
            leakguard.allow(await pool.acquire(), "the leader's lock")

        async def main(pool):
            await acquire(pool)
            lab.advance(1000)
            assert lab.guard.check() == []

        run(main)
        assert lab.kinds == []

    def test_reclaimed(self, dsn):
        """With `reclaim="dropped"`, the pool gets back what nobody can give back any more, in its own loop."""

        async def leak(pool):
            con = await pool.acquire()  # LEAK
            await con.execute("BEGIN")

        async def main(lab):
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
            for _ in range(2):
                await leak(pool)
                await asyncio.sleep(0)
                gc.collect()
                await asyncio.to_thread(lab.advance, 1)
                assert await pool.fetchval("SELECT 1", timeout=5) == 1
            held = await pool.acquire()
            await asyncio.to_thread(lab.advance, 100)
            await held.execute("SELECT 1")
            await pool.release(held)
            pool.terminate()

        with laboratory(reclaim="dropped") as lab:
            asyncio.run(main(lab))
            assert lab.guard.counts["dropped"] == 2
            assert lab.counts() == (5, 5, 0, 0)

    def test_nothing_to_reclaim(self, dsn, caplog):
        """Where the pool's loop has ended, nothing can be released any more, which is said."""
        pools = []

        async def main():
            pools.append(await asyncpg.create_pool(dsn, min_size=1, max_size=1))
            await pools[0].acquire()

        with laboratory(reclaim="dropped") as lab:
            asyncio.run(main())
            lab.collect()
            lab.advance(1)
            assert lab.kinds == ["dropped"]
            pools.clear()
            gc.collect()
        assert "could not be given back the slot" in caplog.text

    def test_raise(self, dsn):
        """With `on_leak="raise"`, the next acquire of the pool raises what was found."""

        async def leak(pool):
            await pool.acquire()  # LEAK

        async def main(lab):
            pool = await asyncpg.create_pool(dsn, min_size=0, max_size=2)
            await leak(pool)
            await asyncio.sleep(0)
            lab.collect()
            lab.advance(1)
            with pytest.raises(leakguard.ConnectionLeakError):
                await pool.acquire()
            async with pool.acquire():
                pass
            pool.terminate()

        with laboratory(on_leak="raise") as lab:
            asyncio.run(main(lab))


class TestOwners:
    def test_orphaned(self, lab, run):
        """A checkout that outlives its task; used by another that lives, it belongs to that one."""

        async def main(pool):
            kept = {}

            async def work(name):
                kept[name] = await pool.acquire()  # LEAK

            await asyncio.create_task(work("left"), name="left")
            await asyncio.create_task(work("used"), name="used")
            lab.advance(3)
            await kept["used"].execute("SELECT 1")
            lab.advance(4)
            assert lab.only("orphaned").hold.owner.task == "left"
            for con in kept.values():
                await pool.release(con)

        run(main)
        assert lab.counts() == (2, 2, 0, 0)

    def test_long_statement_of_another_task(self, lab, run):
        """A statement's task is the owner from its beginning: the end of the one that acquired says nothing."""

        async def main(pool):
            async def acquire():
                return await pool.acquire()

            con = await asyncio.create_task(acquire())
            statement = asyncio.create_task(con.execute("SELECT pg_sleep(0.2)"))
            await aactive()
            lab.advance(50)
            await statement
            lab.advance(4)
            await pool.release(con)

        run(main)
        lab.nothing()

    def test_fetched_by_the_library_alone(self, lab, run):
        """`wait_for(pool.acquire(), 5)` and `gather()` fetch for the caller, whose line is the site: no orphans."""

        async def main(pool):
            one = await asyncio.wait_for(pool.acquire(), 5)
            (two,) = await asyncio.gather(pool.acquire())
            assert {hold.site.function for hold in leakguard.holds()} == {"main"}
            lab.advance(50)
            await pool.release(one)
            await pool.release(two)

        run(main)
        assert [kind for kind in lab.kinds if kind != "nested_acquire"] == []

    def test_overdue_and_recovered(self, lab, run):
        """Held beyond the threshold is a suspicion, its return is told; a running statement is active."""

        async def main(pool):
            async with pool.acquire() as con:  # LEAK
                lab.advance(61)
                assert (lab.only("overdue").certain, lab.leaks[0].hold.state) == (False, "idle")
                await con.execute("SELECT 1")
            lab.runtime.beat()
            assert [event.kind for event in lab.recovered] == ["overdue"]

        run(main)

    def test_idle_in_transaction(self, lab, run):
        """Measured since the last statement."""

        async def main(pool):
            async with pool.acquire() as con, con.transaction():  # LEAK
                lab.advance(30)
                await con.execute("SELECT 1")
                lab.advance(59)
                assert lab.kinds == ["overdue"]
                lab.advance(2)
                assert lab.kinds == ["overdue", "idle_in_transaction"]

        run(main)
        assert all(MARK in leak.site.code for leak in lab.leaks)

    def test_nested(self, lab, run):
        """A second checkout in one task is advice; in another task, or after a drop, it is none."""

        async def drop(pool):
            await pool.acquire()

        async def main(pool):
            async def other():
                async with pool.acquire():
                    pass

            async with pool.acquire():
                await asyncio.create_task(other())
                lab.runtime.beat()
                assert lab.kinds == []
                async with pool.acquire():  # LEAK
                    pass
            lab.runtime.beat()
            lab.only("nested_acquire")
            await drop(pool)
            async with pool.acquire():
                pass
            lab.advance(1)
            assert lab.guard.counts == {"nested_acquire": 1, "dropped": 1}

        run(main)

    def test_nested_without_a_way_out(self, lab, run):
        """In a pool of one, the second acquire waits for ever: it is judged before that."""

        async def main(pool):
            async with pool.acquire():
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await pool.acquire()  # LEAK

        run(main, min_size=1, max_size=1)
        lab.runtime.beat()
        lab.only("nested_acquire")

    def test_statements(self, lab, run):
        """Counted and told without literals or parameters, however they are run."""

        async def words():
            yield b"secret\n"

        async def main(pool):
            async with pool.acquire() as con:
                assert (leakguard.holds()[0].statements, leakguard.holds()[0].last_statement) == (0, None)
                await con.fetchval("SELECT 'secret', $1::text", "parameter")
                await con.executemany("SELECT $1::int", [(1,), (2,)])
                statement = await con.prepare("SELECT 'prepared'")
                assert leakguard.holds()[0].statements == 2
                await statement.fetch()
                hold = leakguard.holds()[0]
                assert (hold.statements, hold.last_statement, hold.state) == (3, "SELECT ?", "idle")
                async with con.transaction():
                    assert leakguard.holds()[0].state == "in_transaction"
                    cursor = await con.cursor("SELECT generate_series(1, 5)")
                    await cursor.fetch(2)
                    assert leakguard.holds()[0].statements == 5
                await con.copy_from_query("SELECT 'secret'", output=lambda data: asyncio.sleep(0))
                assert leakguard.holds()[0].statements == 7
                await con.execute("CREATE TABLE copied (text text)")
                await con.copy_to_table("copied", source=words())
                hold = leakguard.holds()[0]
                assert (hold.statements, hold.last_statement[:5]) == (9, "COPY ")
                with pytest.raises(asyncpg.DivisionByZeroError):
                    await con.fetchval("SELECT 1/0")
                hold = leakguard.holds()[0]
                assert (hold.state, hold.server.backend_pid) == ("idle", con.get_server_pid())
                assert "secret" not in str(hold)
                assert "parameter" not in str(hold)

        run(main)

    def test_two_statements_at_once(self, lab, run):
        """asyncpg refuses a second statement at once; the first one goes on being active."""

        async def main(pool):
            async with pool.acquire() as con:
                task = asyncio.create_task(con.execute("SELECT pg_sleep(0.2)"))
                await aactive()
                with pytest.raises(asyncpg.InterfaceError):
                    await con.execute("SELECT 1")
                assert leakguard.holds()[0].state == "active"
                await task
                assert leakguard.holds()[0].state == "idle"

        run(main)


def note_of(error):
    """The one note of leakguard's on an exception, or on what it was raised from."""
    notes = [
        note
        for one in (error, error.__cause__, error.__context__)
        for note in getattr(one, "__notes__", ())
        if note.startswith("leakguard: ")
    ]
    assert len(set(notes)) == 1, notes
    return notes[0]


class TestExhausted:
    @pytest.mark.parametrize("way", ["acquire", "timeout", "wait_for", "gather"])
    def test_timeout(self, lab, run, way):
        """However the wait is bounded, the exception lists the holders, and the event is told."""

        async def wait(pool):
            match way:
                case "acquire":
                    await pool.acquire(timeout=0.05)
                case "timeout":
                    async with asyncio.timeout(0.05):
                        await pool.acquire()
                case "wait_for":
                    await asyncio.wait_for(pool.acquire(), 0.05)
                case "gather":
                    async with asyncio.timeout(0.05):
                        await asyncio.gather(pool.acquire())

        async def main(pool):
            held = [await pool.acquire() for _ in range(2)]  # HOLDER
            with pytest.raises(TimeoutError) as raised:
                await asyncio.create_task(wait(pool))
            note = "".join(traceback.format_exception(raised.value)) if way == "gather" else note_of(raised.value)
            assert 'pool "asyncpg-pool-1": the pool is exhausted: 2 of 2' in note
            assert "# HOLDER" in note
            assert "# HOLDER" in "".join(traceback.format_exception(raised.value))
            lab.runtime.beat()
            (event,) = lab.refusals
            assert (event.cause, event.pool, event.held, event.capacity) == ("pool", "asyncpg-pool-1", 2, 2)
            assert [group.count for group in event.holders] == [2]
            assert event.error
            for con in held:
                await pool.release(con)
            assert lab.tracker.pool_of(pool).pending() == 0
            assert lab.tracker.pool_of(pool).timeouts == 1

        run(main)

    def test_cancelled(self, lab, run):
        """A wait that somebody else cancels is no exhaustion: its exception lists the holders, and nothing is told."""

        async def main(pool):
            held = [await pool.acquire() for _ in range(2)]  # HOLDER
            lab.runtime.beat()
            lab.events.clear()
            task = asyncio.create_task(pool.fetchval("SELECT 1"))
            await auntil(lambda: pool._queue._getters, "somebody who waits")
            task.cancel()
            with pytest.raises(asyncio.CancelledError) as raised:
                await task
            assert "# HOLDER" in note_of(raised.value)
            assert lab.tracker.pool_of(pool).timeouts == 0
            for con in held:
                await pool.release(con)
            await quiet(pool)

        run(main)
        lab.nothing()

    def test_timeout_elsewhere(self, lab, run, monkeypatch):
        """Too slow a connect, or too slow a setup, is no exhaustion."""

        async def slow(*args, **kwargs):
            await asyncio.sleep(30)

        async def main(pool):
            with pytest.raises(TimeoutError) as raised:
                await pool.acquire(timeout=0.02)
            assert not hasattr(raised.value, "__notes__")

        run(main, min_size=0, setup=slow)
        if VERSION >= (0, 30):
            run(main, min_size=0, connect=slow)
        lab.nothing()

    def test_server_is_full(self, lab, dsn, postgres):
        """A refused connect says who has taken the server's connections, in acquire() and in create_pool()."""

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=0, max_size=50)
            held = []

            async def acquire_all():
                while True:
                    held.append(await pool.acquire())  # HOLDER

            with pytest.raises(asyncpg.TooManyConnectionsError) as raised:
                await acquire_all()
            note = note_of(raised.value)
            assert "the server" in note
            assert "# HOLDER" in note
            with pytest.raises(asyncpg.TooManyConnectionsError) as raised:
                await asyncpg.create_pool(dsn, min_size=1)
            assert "# HOLDER" in note_of(raised.value)
            pool.terminate()
            lab.runtime.beat()
            assert {event.cause for event in lab.refusals} <= {"server", "reserved"}
            assert {event.pool for event in lab.refusals} == {"asyncpg-pool-1", "asyncpg-pool-2"}

        asyncio.run(main())
        assert lab.counts()[2:] == (0, 0)


class TestEnds:
    def test_closed_checkout(self, lab, run):
        """`con.close()` and `con.terminate()` on a checkout give its slot back."""

        async def main(pool):
            con = await pool.acquire()
            await con.close()
            assert leakguard.holds() == []
            con = await pool.acquire()
            con.terminate()
            assert leakguard.holds() == []
            con = await pool.acquire()
            await con.close()
            await pool.release(con)
            assert lab.counts() == (3, 3, 0, 0)
            await quiet(pool)

        run(main, min_size=0)
        lab.nothing()

    @pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
    def test_killed_by_the_server(self, lab, run, kill, busy):
        """The server ends the backend of a checkout: asyncpg takes the slot back, and the hold is over."""

        async def main(pool):
            con = await pool.acquire()
            task = asyncio.create_task(con.execute("SELECT pg_sleep(30)" if busy else "SELECT 1"))
            await (aactive() if busy else asyncio.wait([task]))
            driver = con._con
            await asyncio.to_thread(kill, con.get_server_pid())
            # InternalClientError: asyncpg may be in the midst of reading the server's farewell.
            errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError)
            with contextlib.suppress(*errors):
                await task
                await con.execute("SELECT 1")
            await auntil(driver.is_closed, "the server's farewell")
            await pool.release(con)
            await quiet(pool)
            assert lab.counts() == (1, 1, 0, 0)
            assert await pool.fetchval("SELECT 1") == 1

        run(main, min_size=0)
        lab.nothing()

    def test_pool_ends_while_out(self, lab, run):
        """terminate() and a cancelled close() end what is out."""

        async def main(pool):
            con = await pool.acquire()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pool.close(), 0.05)
            assert leakguard.holds() == []
            with pytest.raises(asyncpg.InterfaceError):
                await con.execute("SELECT 1")

        run(main)
        lab.nothing()

    def test_connections_come_and_go(self, lab, run):
        """Expired, inactive and worn connections are replaced: the pool counts those that are open, and all is well."""

        async def main(pool):
            for _ in range(3):
                await pool.fetchval("SELECT 1")
                await pool.expire_connections()
                con = await pool.acquire()
                await pool.expire_connections()
                await pool.release(con)
            async with asyncio.timeout(5):
                while pool.get_size() > 0 and VERSION < (0, 32):
                    await asyncio.sleep(0.005)
            wires = lab.tracker.pool_of(pool).wires

            def all_open() -> bool:
                lab.collect()
                return sum(wire.is_open for wire in list(wires.values())) == pool.get_size()

            await auntil(all_open, "the connections to close")
            assert lab.counts() == (6, 6, 0, 0)

        run(main, min_size=0, max_inactive_connection_lifetime=0.02, max_queries=2)
        lab.nothing()

    @pytest.mark.parametrize("hook", ["init", "setup", "reset"])
    def test_hook_that_fails(self, lab, run, hook):
        """A hook of the application's that fails costs no accounting; what it runs is not the checkout's."""
        if hook == "reset" and VERSION < (0, 30):
            pytest.skip("asyncpg before 0.30 has no reset")
        fails = True

        async def fail(con):
            await con.execute("SELECT 1")
            assert lab.counts()[0] - lab.counts()[1] <= (hook == "reset")  # the pool's connection, and no hold
            if fails:
                raise ConnectionRefusedError

        async def main(pool):
            nonlocal fails
            with pytest.raises(ConnectionRefusedError):
                async with pool.acquire():
                    pass
            fails = False
            async with pool.acquire():
                assert leakguard.holds()[0].statements == 0
            await quiet(pool)
            assert lab.tracker.pool_of(pool).pending() == 0

        run(main, min_size=0, **{hook: fail})
        assert lab.counts()[2:] == (0, 0)
        lab.nothing()

    def test_misuse(self, lab, run, dsn):
        """What asyncpg refuses is refused as ever, and changes nothing."""

        async def main(pool):
            other = await asyncpg.create_pool(dsn, min_size=0)
            async with pool.acquire() as con:
                with pytest.raises(asyncpg.InterfaceError) as raised:
                    await other.release(con)
                assert raised.value.__context__ is None
                assert len(leakguard.holds()) == 1
            await other.close()
            with pytest.raises(asyncpg.InterfaceError):
                await other.acquire()
            with pytest.raises(asyncpg.InterfaceError):
                await asyncpg.create_pool(dsn, min_size=0).acquire()

        run(main)
        lab.nothing()

    def test_unclosed_pool(self, lab, dsn):
        """A pool that is forgotten with its loop was never closed; what was out of it is dropped."""

        async def main(kept):
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=3)  # LEAK
            if kept:
                kept.append(await pool.acquire())

        asyncio.run(main([]))
        lab.collect()
        assert lab.only("unclosed_pool").pool.name == "asyncpg-pool-1"
        lab.events.clear()
        lab.advance(11)
        asyncio.run(main(["first"]))
        lab.collect()
        assert sorted(lab.kinds) == ["dropped", "unclosed_pool"]
        assert lab.tracker.pools == {}
        assert lab.tracker.wires == {}

    def test_closed_pool_is_clean(self, lab, dsn):
        """Its twin is closed, by its context or by hand."""

        async def main():
            async with asyncpg.create_pool(dsn, min_size=2, max_size=3):
                pass
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=3)
            await pool.close()
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=3)
            pool.terminate()

        asyncio.run(main())
        lab.collect()
        lab.nothing()
        assert lab.tracker.pools == {}

    def test_nothing_is_kept_alive(self, lab, dsn):
        """Pool, connections, proxies and tasks die as they would without leakguard."""
        refs = {}

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
            async with pool.acquire() as con:
                await con.execute("SELECT 1")
            out = await pool.acquire()
            refs.update(queue=weakref.ref(pool._queue), connection=weakref.ref(out._con))
            refs.update(task=weakref.ref(asyncio.current_task()), protocol=weakref.ref(out._con._protocol))
            lab.advance(1)

        asyncio.run(main())
        gc.collect()
        assert [name for name, ref in refs.items() if ref() is not None] == []

    def test_lost_slot(self, lab, run):
        """A slot that the library loses on its way out is nobody's: the pool's own accounting tells."""

        async def main(pool):
            holder = await pool._queue.get()
            await holder.acquire()
            lab.advance(30)
            found = lab.only("lost_slot", mark=None)
            assert (found.hold, found.site.function) == (None, "body")

        run(main)

    @pytest.mark.skipif(VERSION < (0, 30), reason="asyncpg before 0.30 has no reset")
    def test_long_release(self, lab, run):
        """A slot that is long on its way in is not lost; the next time it is out it can be."""
        reached, hung = asyncio.Event(), asyncio.Event()

        async def reset(con):
            reached.set()
            await hung.wait()

        async def main(pool):
            con = await pool.acquire()
            release = asyncio.create_task(pool.release(con))
            await reached.wait()
            lab.advance(30)
            assert lab.kinds == []
            hung.set()
            await release
            holder = await pool._queue.get()
            await holder.acquire()
            lab.advance(30)
            lab.only("lost_slot", mark=None)

        run(main, reset=reset)

    def test_broken_below(self, lab, run):
        """A checkout whose protocol has given up: asyncpg before 0.32 loses the slot at its release, which is found."""

        async def main(pool):
            con = await pool.acquire()
            con._con._protocol.abort()
            await pool.release(con)
            lab.advance(30)
            assert lab.kinds == (["lost_slot"] if VERSION < (0, 32) else [])

        run(main)

    def test_ended_before_it_was_handed_out(self, dsn, monkeypatch):
        """The server ends the connection between the pool and whoever waits for it: no hold, and no error of ours."""
        acquire = asyncpg.Pool._acquire

        async def _acquire(self, timeout):
            proxy = await acquire(self, timeout)
            proxy._con.terminate()
            return proxy

        monkeypatch.setattr(asyncpg.Pool, "_acquire", _acquire)

        async def main(lab):
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
            await pool.acquire()
            assert lab.tracker.pool_of(pool).pending() == 0
            pool.terminate()

        with laboratory() as lab:
            asyncio.run(main(lab))
            assert lab.counts() == (0, 0, 0, 0)
            lab.nothing()


class TestCancellation:
    """A task that is cancelled at any step, of acquire, of use or of release, costs nothing and raises no alarm."""

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["context", "timeout", "finally"])
    def test_at_each_step(self, lab, run, form):
        """Cancelled after any number of turns of the loop, connecting, waiting, running or resetting."""

        async def work(pool):
            match form:
                case "context":
                    async with pool.acquire() as con:
                        await con.fetchval("SELECT pg_sleep(0.001)")
                case "timeout":
                    async with pool.acquire(timeout=5) as con, con.transaction():
                        await con.fetchval("SELECT 1")
                case "finally":
                    con = await pool.acquire()
                    try:
                        await con.fetchval("SELECT 1")
                    finally:
                        await pool.release(con)

        async def main(pool):
            record = lab.tracker.pool_of(pool) or lab.tracker.pool_of(await anext_pool(pool))
            for turns in range(120):
                if turns % 10 == 0:
                    await pool.expire_connections()  # so that connecting is cancelled, too
                tasks = [asyncio.create_task(work(pool)) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                del tasks, task
                await quiet(pool)
                lab.advance(0.5)
                assert (record.pending(), leakguard.holds()) == (0, [])
            acquired, released, held, leaked = lab.counts()
            assert acquired > 20
            assert (acquired, held, leaked) == (released, 0, 0)

        async def anext_pool(pool):
            await pool.fetchval("SELECT 1")
            return pool

        run(main)
        lab.nothing()

    def test_cancelled_while_holding(self, lab, run):
        """Without try/finally, the checkout of a cancelled task is dropped."""

        async def work(pool):
            con = await pool.acquire()  # LEAK
            await asyncio.sleep(30)
            await pool.release(con)

        async def main(pool):
            task = asyncio.create_task(work(pool))
            await aheld()
            task.cancel()
            await asyncio.wait([task])
            del task
            gc.collect()
            lab.advance(1)
            lab.only("dropped")

        run(main)

    def test_release_that_is_cancelled(self, lab, run):
        """A release goes on when its caller is cancelled: the hold has ended, and is neither dropped nor orphaned."""

        async def work(pool):
            con = await pool.acquire()
            await pool.release(con)

        async def main(pool):
            task = asyncio.create_task(work(pool))
            async with asyncio.timeout(5):
                while lab.counts()[1] == 0:
                    await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            lab.advance(20)
            lab.collect()
            await quiet(pool)

        run(main)
        lab.nothing()


class TestPools:
    def test_older_than_leakguard(self, dsn):
        """A pool made before is watched from its next acquire on; what was out before is nobody's leak."""

        async def leak(pool):
            await pool.acquire()  # LEAK

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=4)
            before = await pool.acquire()
            with laboratory() as lab:
                await pool.fetchval("SELECT 1")
                lab.advance(10)
                await pool.release(before)
                lab.advance(10)
                assert lab.counts() == (1, 1, 0, 0)
                assert lab.kinds == []
                await leak(pool)
                lab.advance(1)
                found = lab.only("dropped").pool
                assert (found.created_at, found.open > 0) == (None, True)
            async with pool.acquire() as con:
                await con.fetchval("SELECT 1")
                assert "_leakguard" not in vars(con._con._protocol)
                assert "_leakguard" not in vars(pool._queue)
            with laboratory() as lab:
                async with pool.acquire() as con:
                    await con.fetchval("SELECT 1")
                    assert leakguard.holds()[0].statements == 1
            pool.terminate()

        asyncio.run(main())

    def test_after_a_fork(self, lab, run):
        """What a forked child inherits is known afresh there: statements and ends of a connection are seen."""

        async def main(pool):
            await pool.fetchval("SELECT 1")
            lab.tracker.forget_parent()
            async with pool.acquire() as con:
                await con.fetchval("SELECT 1")
                (hold,) = leakguard.holds()
                assert (hold.statements, hold.pool) == (1, "asyncpg-pool-1")
                assert lab.tracker.pool_of(pool).created.site().function == "body"
                await con.close()
                assert leakguard.holds() == []

        run(main)

    @pytest.mark.parametrize("fault", ["pool", "direct"])
    def test_switched_off(self, dsn, caplog, fault):
        """An integration that goes on failing is switched off, direct connections and pools alike, and says so once."""

        def fail(*_args):
            raise ZeroDivisionError

        async def main(lab):
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=2)
            held, kept = await pool.acquire(), await asyncpg.connect(dsn)
            acquired, lab.tracker.acquired = lab.tracker.acquired, fail
            for _ in range(libraries.ERRORS_UNTIL_OFF + 5):
                if fault == "pool":
                    await asyncio.create_task(pool.fetchval("SELECT 1"))
                else:
                    await (await asyncpg.connect(dsn)).close()
            assert lab.runtime.internal_errors == libraries.ERRORS_UNTIL_OFF
            lab.tracker.acquired = acquired
            await pool.fetchval("SELECT 1")
            await (await asyncpg.connect(dsn)).close()
            assert leakguard.holds() == []
            lab.advance(1000)
            await pool.release(held)
            await kept.close()
            await pool.close()

        with laboratory(errors=None) as lab:
            asyncio.run(main(lab))
            assert lab.kinds == []
        assert caplog.text.count("no longer watched") == 1

    def test_never_initialized(self, lab, dsn):
        """Of pools that are created and never initialized, only the last hundred are remembered."""
        seen = _Pools(lab.runtime)
        pools = [object() for _ in range(250)]
        for pool in pools:
            seen.created(pool)
        assert list(seen._unborn) == [id(pool) for pool in pools[-100:]]

    def test_watched_alone(self, dsn):
        """`watch(pool)` judges this pool by its own settings, and holds it weakly."""

        async def main():
            with laboratory() as lab:
                # asyncpg before 0.32 has the loop keep a terminated pool until its timers have run.
                fresh = asyncpg.create_pool(dsn, min_size=0, max_size=2, max_inactive_connection_lifetime=0)
                with pytest.raises(leakguard.UnsupportedError, match="await it first"):
                    leakguard.watch(fresh)
                await fresh
                events = []
                with leakguard.watch(fresh, threshold=2, on_leak=events.append):
                    async with fresh.acquire():
                        lab.advance(5)
                    assert [event.kind for event in events if event.event == "leak"] == ["overdue"]
                assert lab.kinds == []
                fresh.terminate()
                ref = weakref.ref(fresh._queue)
                del fresh
                gc.collect()
                assert ref() is None

        asyncio.run(main())

    def test_in_several_loops(self, lab, dsn):
        """Pools of several threads' loops are told apart; the watchdog looks at them from a thread of its own."""

        def loop(leaks):
            async def leak(pool):
                await pool.acquire()

            async def main():
                pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
                if leaks:
                    await leak(pool)
                await asyncio.create_task(pool.fetchval("SELECT 1"))
                gc.collect()
                in_thread(lambda: lab.advance(1))
                pool.terminate()

            asyncio.run(main())

        in_thread(lambda: loop(leaks=False))
        assert lab.kinds == []
        in_thread(lambda: loop(leaks=True))
        assert lab.kinds == ["dropped"]
        lab.collect()
        assert lab.counts() == (3, 3, 0, 0)

    def test_subclasses(self, lab, dsn):
        """Pools, connections and connect callbacks of the application's own are watched like asyncpg's."""

        class Pool(asyncpg.Pool):
            pass

        class Connection(asyncpg.Connection):
            pass

        async def connect(*args, **kwargs):
            return await asyncpg.connect(*args, **kwargs)

        async def leak(pool):
            con = await pool.acquire()  # LEAK
            assert isinstance(con._con, Connection)
            await con.execute("SELECT 1")

        async def main():
            options = {"connect": connect} if VERSION >= (0, 30) else {}
            pool = Pool(
                dsn,
                min_size=1,
                max_size=2,
                max_queries=100,
                max_inactive_connection_lifetime=0,
                setup=None,
                init=None,
                loop=None,
                connection_class=Connection,
                record_class=asyncpg.Record,
                **options,
            )
            async with pool:
                await pool.fetchval("SELECT 1")
                await leak(pool)
                assert lab.counts() == (2, 1, 1, 0)  # what the pool connects is no hold of its own
                lab.advance(1)
                assert lab.only("dropped").hold.statements == 1
                pool.terminate()

        asyncio.run(main())

    def test_below_sqlalchemy(self, lab, dsn):
        """Of a SQLAlchemy engine over an asyncpg pool, only SQLAlchemy's checkout is judged."""
        sa = pytest.importorskip("sqlalchemy")
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import NullPool

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2)
            engine = create_async_engine(url_for(dsn, "asyncpg"), poolclass=NullPool, async_creator=pool.acquire)
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT 1"))
                (hold,) = leakguard.holds()
                assert (hold.library, hold.statements, hold.state) == ("sqlalchemy", 1, "in_transaction")
                lab.advance(20)
                assert lab.kinds == []
            assert leakguard.holds() == []
            conn = await engine.connect()
            assert len(lab.tracker.pool_of(pool).holds()) == 1
            (await conn.get_raw_connection()).driver_connection.terminate()
            assert lab.tracker.pool_of(pool).holds() == []
            assert [hold.library for hold in leakguard.holds()] == ["sqlalchemy"]
            await conn.invalidate()
            await conn.close()
            await engine.dispose()
            await quiet(pool)
            await pool.close()

        asyncio.run(main())
        assert lab.counts()[2:] == (0, 0)
        lab.nothing()


class TestFacts:
    """What the integration leans on in asyncpg. One that fails says that a new version has changed it."""

    def test_references(self, dsn):
        """The pool and the connection refer to a checkout, its holder and the proxy to the connection, nobody else."""

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
            con = await pool.acquire()
            holder = con._holder
            assert holder._proxy is con
            assert con._con._proxy is con
            assert holder._con is con._con
            await con.fetchval("SELECT $1::int", 1)
            connection, con = con._con, None
            assert {type(one).__name__ for one in gc.get_referrers(holder._proxy)} == {
                "PoolConnectionHolder",
                "Connection",
            }
            del connection
            gc.collect()
            assert (sys.getrefcount(holder._proxy), sys.getrefcount(holder._con)) == (3, 3)
            pool.terminate()

        asyncio.run(main())

    def test_no_weak_references(self):
        """Neither a pool nor a proxy knows weak references or has room for an attribute; a pool's queue and a protocol
        have."""
        for cls in (asyncpg.Pool, asyncpg.pool.PoolConnectionProxy):
            assert not {"__weakref__", "__dict__"} & set(dir(cls))
        assert "__dict__" not in dir(asyncpg.Connection)
        for cls in (asyncio.LifoQueue, asyncpg.protocol.protocol.Protocol):
            assert {"__weakref__", "__dict__"} <= set(dir(cls))

    def test_order_of_a_release(self, dsn, monkeypatch):
        """A release begins with `_on_release`, once, and ends with the holder's `_release`; a close has `_cleanup`."""
        calls = []
        for owner, name in (
            (asyncpg.Connection, "_on_release"),
            (asyncpg.Connection, "_cleanup"),
            (asyncpg.pool.PoolConnectionHolder, "_release"),
        ):
            original = vars(owner)[name]

            def spy(self, *args, original=original, name=name, **kwargs):
                calls.append(name)
                return original(self, *args, **kwargs)

            monkeypatch.setattr(owner, name, spy)

        async def main():
            pool = await asyncpg.create_pool(dsn, min_size=1, max_size=1)
            await pool.fetchval("SELECT 1")
            assert calls == ["_on_release", "_release"]
            calls.clear()
            con = await pool.acquire()
            await con.close()
            assert calls[:2] == ["_cleanup", "_release"]
            pool.terminate()

        asyncio.run(main())
