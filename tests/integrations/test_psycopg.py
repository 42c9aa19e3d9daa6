"""Direct connections of psycopg 3, sync and async."""

from __future__ import annotations

import asyncio
import json
import threading

import psycopg
import psycopg_pool
import pytest
import sqlalchemy as sa
from psycopg import connect as connect_by_name  # bound before leakguard is installed, as applications do

import leakguard
from leakguard.prose.events import render_event
from tests.integrations.support import in_thread, laboratory, until

# psycopg itself warns of a dropped connection; here that is the subject.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def drop(dsn):
    conn = psycopg.connect(dsn)  # LEAK
    conn.execute("SELECT 1")


async def drop_async(dsn):
    conn = await psycopg.AsyncConnection.connect(dsn)  # LEAK
    await conn.execute("SELECT 1")


class TestDropped:
    def test_dropped(self, lab, dsn):
        """A connection that is garbage-collected open is reported as dropped, at the line that opened it."""
        drop(dsn)
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed, leak.pool, leak.site.function) == (True, False, None, "drop")
        assert (leak.hold.library, leak.hold.operation, leak.hold.pool) == ("psycopg", "connect", None)
        assert lab.counts() == (1, 0, 0, 1)

    def test_dropped_async(self, lab, dsn):
        """The same for an asynchronous connection, which its task's name is told of."""
        asyncio.run(drop_async(dsn))
        lab.collect()
        leak = lab.only("dropped")
        assert leak.hold.owner.task is not None

    def test_dropped_in_a_cycle(self, lab, dsn):
        """A connection in a reference cycle is reported once the collector has come by, not before."""

        def leak():
            holder = {"conn": psycopg.connect(dsn)}  # LEAK
            holder["self"] = holder

        leak()
        lab.runtime.beat()
        assert lab.kinds == []
        lab.collect()
        lab.only("dropped")

    def test_dropped_by_name(self, lab, dsn):
        """A `connect` that was imported by name before leakguard was installed is watched like any other."""

        def leak():
            connect_by_name(dsn)  # LEAK

        leak()
        lab.collect()
        lab.only("dropped")

    def test_dropped_subclass(self, lab, dsn):
        """A subclass, also one made after the installation with its own `close` and `connect`, is watched and kept."""

        class Mine(psycopg.Connection):
            @classmethod
            def connect(cls, *args, **kwargs):
                return super().connect(*args, **kwargs)  # LEAK

            def close(self):
                super().close()

        with Mine.connect(dsn) as conn:
            assert type(conn) is Mine
        lab.collect()
        assert lab.kinds == []

        def leak():
            Mine.connect(dsn)

        leak()
        lab.collect()
        lab.only("dropped")

    def test_each_drop_is_counted(self, lab, dsn):
        """Many drops of one bug are told once at first, with the exact count later and one fingerprint."""
        for _ in range(5):
            drop(dsn)
        lab.collect()
        assert [leak.count for leak in lab.leaks] == [1]
        lab.advance(11)
        assert [leak.count for leak in lab.leaks] == [1, 5]
        assert len({leak.fingerprint for leak in lab.leaks}) == 1
        assert lab.summary().leaks == {"dropped": 5}

    def test_clean(self, lab, dsn):
        """Closed, closed twice, by `with`, by name, in a subclass, with an exception: nothing to say."""
        conn = psycopg.connect(dsn)
        conn.close()
        conn.close()
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1")
        with connect_by_name(dsn) as conn:
            conn.execute("SELECT 1")
        with pytest.raises(psycopg.errors.DivisionByZero), psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1/0")
        del conn
        assert lab.counts() == (4, 4, 0, 0)
        lab.nothing()

    def test_clean_async(self, lab, dsn):
        """The asynchronous twins: closed and by `async with`."""

        async def main():
            conn = await psycopg.AsyncConnection.connect(dsn)
            await conn.close()
            async with await psycopg.AsyncConnection.connect(dsn) as conn:
                await conn.execute("SELECT 1")

        asyncio.run(main())
        assert lab.counts() == (2, 2, 0, 0)
        lab.nothing()

    def test_a_cursor_keeps_it(self, lab, dsn):
        """A connection that only its cursor refers to is still in use, and closed through it."""
        cursor = psycopg.connect(dsn).cursor()
        cursor.execute("SELECT 1")
        lab.collect()
        assert len(leakguard.holds()) == 1
        cursor.connection.close()
        del cursor
        lab.nothing()

    def test_a_refused_connect_is_no_hold(self, lab, dsn):
        """A connect that fails holds nothing and counts nothing."""
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn.rsplit("/", 1)[0] + "/no_such_database")
        assert lab.counts() == (0, 0, 0, 0)
        lab.nothing()


class TestServerGone:
    def test_noticed(self, lab, dsn, kill):
        """Once the client has noticed that the server hung up, there is no open connection left to leak."""
        conn = psycopg.connect(dsn)
        kill(conn.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
        assert conn.closed
        assert leakguard.holds() == []
        del conn
        lab.nothing()

    def test_noticed_async(self, lab, dsn, kill):
        """The same for an asynchronous connection."""

        async def main():
            conn = await psycopg.AsyncConnection.connect(dsn)
            kill(conn.info.backend_pid)
            with pytest.raises(psycopg.OperationalError):
                await conn.execute("SELECT 1")

        asyncio.run(main())
        lab.nothing()

    def test_not_noticed(self, lab, dsn, kill):
        """A client that never looked again has dropped what it believed to be open."""

        def leak():
            conn = psycopg.connect(dsn)  # LEAK
            kill(conn.info.backend_pid)

        leak()
        lab.collect()
        lab.only("dropped")


class TestOrphaned:
    def test_after_its_thread(self, lab, dsn):
        """A connection outlives its thread: after the grace, and not before, that is a leak."""
        kept = in_thread(lambda: psycopg.connect(dsn), "exporter")  # LEAK
        lab.advance(4.5)
        assert lab.kinds == []
        lab.advance(1.0)
        leak = lab.only("orphaned")
        assert leak.hold.owner.thread == "exporter"
        assert leak.now.owner == "ended"
        kept.close()
        lab.advance(1000)
        assert lab.kinds == ["orphaned"]

    def test_found_within_a_second(self, lab, dsn):
        """The finding comes within a second of the deadline, however the watchdog's rounds fall."""
        kept = in_thread(lambda: psycopg.connect(dsn))  # LEAK
        ended = lab.moment
        while not lab.kinds and lab.moment < ended + 20:
            lab.advance(0.25)
        assert 5.0 <= lab.moment - ended <= 6.0
        lab.only("orphaned")
        kept.close()

    def test_not_told_twice(self, lab, dsn):
        """An orphan that is collected later is one leak, not two, and is counted as collected."""
        kept = in_thread(lambda: psycopg.connect(dsn))  # LEAK
        lab.advance(10)
        del kept
        lab.collect()
        lab.advance(100)
        lab.only("orphaned")
        assert lab.counts() == (1, 0, 0, 1)

    def test_closed_in_the_grace(self, lab, dsn):
        """A connection that is closed soon after its thread's end was merely handed over."""
        kept = in_thread(lambda: psycopg.connect(dsn))
        lab.advance(4)
        kept.close()
        lab.nothing()

    def test_handed_over(self, lab, dsn):
        """A live thread that uses it becomes its owner, and the acquisition's end is forgotten."""
        kept = in_thread(lambda: psycopg.connect(dsn, autocommit=True), "maker")
        lab.advance(4)
        kept.execute("SELECT 1")
        lab.advance(1000)
        assert lab.kinds == []
        assert leakguard.holds()[0].owner.thread == "MainThread"
        kept.close()
        lab.nothing()

    def test_the_last_user_ends(self, lab, dsn):
        """The grace begins again with the last use, and with the end of the thread that used it last."""
        kept = in_thread(lambda: psycopg.connect(dsn, autocommit=True), "maker")  # LEAK
        lab.advance(4)
        in_thread(lambda: kept.execute("SELECT 1"), "toucher")
        lab.advance(4)
        assert lab.kinds == []
        lab.advance(2)
        assert lab.only("orphaned").hold.owner.thread == "toucher"
        kept.close()

    def test_after_its_task(self, lab, dsn):
        """A connection outlives its task, while the loop and the thread live on."""

        async def main():
            async def fetch():
                return await psycopg.AsyncConnection.connect(dsn)  # LEAK

            kept = await asyncio.create_task(fetch(), name="fetcher")
            lab.advance(4)
            assert lab.kinds == []
            lab.advance(3)
            assert lab.only("orphaned").hold.owner.task == "fetcher"
            await kept.close()

        asyncio.run(main())

    def test_fetched_by_a_task_and_used(self, lab, dsn):
        """What `gather` fetched and the caller uses is the caller's."""

        async def main():
            async def fetch():
                return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

            kept = await asyncio.gather(fetch(), fetch())
            for conn in kept:
                await conn.execute("SELECT 1")
            lab.advance(500)
            for conn in kept:
                await conn.close()

        asyncio.run(main())
        lab.nothing()

    def test_lent_to_a_task(self, lab, dsn):
        """Whoever lends its connection to a task that ends (`gather`, `wait_for`) and lives on has it back."""

        async def main():
            async def work(conn):
                await conn.execute("SELECT 1")

            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
                await asyncio.gather(work(conn), work(conn))
                lab.advance(100)
                await asyncio.wait_for(conn.execute("SELECT 1"), 10)
                lab.advance(100)
                await asyncio.create_task(work(conn))
                leakguard.check()
                assert leakguard.holds()[0].owner.task == asyncio.current_task().get_name()

        asyncio.run(main())
        lab.nothing()

    def test_lent_to_a_thread(self, lab, dsn):
        """The same for threads, also without any grace."""
        leakguard.install(owner_grace=0.0)
        with psycopg.connect(dsn, autocommit=True) as conn:
            for _ in range(3):
                in_thread(lambda: conn.execute("SELECT 1"))
            leakguard.check()
            lab.advance(100)
            assert leakguard.holds()[0].owner.thread == "MainThread"
        lab.nothing()

    def test_lender_ends_too(self, lab, dsn):
        """When the last of those who ever used it has ended, it is an orphan."""
        kept = []

        def lend():
            conn = psycopg.connect(dsn, autocommit=True)  # LEAK
            kept.append(conn)
            in_thread(lambda: conn.execute("SELECT 1"), "borrower")
            lab.advance(20)
            assert lab.kinds == []

        in_thread(lend, "lender")
        lab.advance(6)
        assert lab.only("orphaned").hold.owner.thread == "lender"
        kept.pop().close()

    def test_fetched_by_the_library_alone(self, lab, dsn):
        """`wait_for` and `create_task` on the library's own coroutine fetch for somebody else: no orphan."""

        async def main():
            bare = await asyncio.create_task(psycopg.AsyncConnection.connect(dsn))
            timed = await asyncio.wait_for(psycopg.AsyncConnection.connect(dsn), 10)
            lab.advance(500)
            await bare.close()
            await timed.close()

        asyncio.run(main())
        lab.nothing()


class TestIdleInTransaction:
    def test_idle(self, lab, dsn):
        """An open transaction without a statement for the limit is reported, measured since the last statement."""
        conn = psycopg.connect(dsn)  # LEAK
        conn.execute("SELECT 1")
        lab.advance(50)
        conn.execute("SELECT 2")
        lab.advance(59)
        assert lab.kinds == []
        lab.advance(2)
        leak = lab.only("idle_in_transaction")
        assert (leak.certain, leak.hold.state, leak.hold.statements) == (False, "in_transaction", 2)
        assert "for 1m0" in leak.reason  # since the last statement, not since it was opened
        conn.close()
        lab.runtime.beat()
        assert [(event.kind, event.held_for > 100) for event in lab.recovered] == [("idle_in_transaction", True)]

    def test_in_error(self, lab, dsn):
        """A failed transaction that nobody ends holds its locks just the same."""
        conn = psycopg.connect(dsn)  # LEAK
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("SELECT 1/0")
        lab.advance(61)
        assert lab.only("idle_in_transaction").hold.state == "in_error"
        conn.close()

    def test_begun_late(self, lab, dsn):
        """A transaction that begins long after the connection is judged from its own last statement."""
        conn = psycopg.connect(dsn)  # LEAK
        lab.advance(600)
        conn.execute("SELECT 1")
        lab.advance(59)
        assert lab.kinds == []
        lab.advance(2)
        lab.only("idle_in_transaction")
        conn.close()

    def test_told_once(self, lab, dsn):
        """One hold is suspected of it once in its life."""
        conn = psycopg.connect(dsn)  # LEAK
        for _ in range(3):
            conn.execute("SELECT 1")
            lab.advance(130)
        lab.only("idle_in_transaction")
        conn.close()

    def test_clean(self, lab, dsn):
        """Committed, rolled back, autocommit, or busy now and then: age alone says nothing of a direct connection."""
        committed, busy = psycopg.connect(dsn), psycopg.connect(dsn)
        auto = psycopg.connect(dsn, autocommit=True)
        committed.execute("SELECT 1")
        committed.commit()
        auto.execute("SELECT 1")
        for _ in range(10):
            busy.execute("SELECT 1")
            lab.advance(50)
        for conn in (committed, busy, auto):
            conn.close()
        del conn, committed, busy, auto
        lab.nothing()


class TestFacts:
    def test_active(self, lab, dsn):
        """A connection that is running a statement is told as active."""
        with psycopg.connect(dsn) as conn:

            def sleep():
                with pytest.raises(psycopg.errors.QueryCanceled):
                    conn.execute("SELECT pg_sleep(60)")

            thread = threading.Thread(target=sleep)
            thread.start()
            until(lambda: leakguard.holds()[0].state == "active")
            lab.advance(1000)
            assert lab.kinds == []  # a statement that runs is no idle transaction
            while thread.is_alive():  # a cancellation that arrives before the statement is lost
                conn.cancel()
                thread.join(0.02)
            until(lambda: leakguard.holds()[0].state == "in_error")

    def test_statements(self, lab, dsn):
        """Statements are counted, the last one is told without literals, and parameters never are."""
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT %s, 'literal-text', 4711", ("parameter-text",))
            with conn.cursor() as cursor:
                cursor.execute(b"SELECT 'bytes-text'")
                cursor.executemany("SELECT %s", [("many-text",), ("more-text",)])
            with conn.cursor("named") as cursor:
                cursor.execute("SELECT 'cursor-text', 1 WHERE %s = 1", (1,))
            hold = leakguard.holds()[0]
            assert hold.statements == 4
            assert hold.last_statement.startswith("SELECT")
            assert "WHERE %s" in hold.last_statement
            for secret in ("text", "4711"):
                assert secret not in hold.last_statement
            assert hold.last_used_at is not None

    def test_composed_statement(self, lab, dsn):
        """A composed query may hold values, so its text is not told at all."""
        with psycopg.connect(dsn) as conn:
            conn.execute(psycopg.sql.SQL("SELECT {}").format(psycopg.sql.Literal("value-text")))
            hold = leakguard.holds()[0]
            assert (hold.statements, hold.last_statement) == (1, None)

    def test_statements_async(self, lab, dsn):
        """Asynchronous cursors are counted alike."""

        async def main():
            async with await psycopg.AsyncConnection.connect(dsn) as conn:
                await conn.execute("SELECT 1")
                async with conn.cursor("named") as cursor:
                    await cursor.execute("SELECT 2")
                assert leakguard.holds()[0].statements == 2

        asyncio.run(main())

    @pytest.mark.parametrize("host", ["tcp", "socket"])
    def test_server(self, lab, dsn, postgres, host):
        """The server's end is that of pg_stat_activity: backend, port of the client, database, user."""
        if host == "socket":
            directory = getattr(postgres, "directory", None)
            if directory is None:
                pytest.skip("the socket of a foreign server is not known")
            dsn = f"{dsn}?host={directory}"
        with psycopg.connect(dsn) as conn:
            row = conn.execute(
                "SELECT pid, client_port, datname, usename FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            ).fetchone()
            server = leakguard.holds()[0].server
            port = None if row[1] == -1 else row[1]
            assert (server.backend_pid, server.client_port, server.dbname, server.user) == (
                row[0],
                port,
                row[2],
                row[3],
            )
            assert server.port == postgres.port

    def test_server_of_a_dropped_one(self, lab, dsn):
        """What is gone is told with the backend that it had."""
        pids = []

        def leak():
            conn = psycopg.connect(dsn)  # LEAK
            pids.append(conn.info.backend_pid)

        leak()
        lab.collect()
        assert lab.only("dropped").hold.server.backend_pid == pids[0]

    def test_labels(self, lab, dsn):
        """The labels of the acquisition's context are the owner's."""
        with leakguard.label(request="r-17"):
            conn = psycopg.connect(dsn)
        assert dict(leakguard.holds()[0].owner.labels) == {"request": "r-17"}
        conn.close()

    def test_no_password(self, lab, dsn):
        """No password gets into an event or a report, also where the source line has it."""
        dsn = dsn.replace("leakguard@", "leakguard:hunter2@")

        def leak():
            psycopg.connect(dsn, password="hunter2")  # LEAK

        leak()
        lab.collect()
        leak = lab.only("dropped")
        assert "password" in leak.site.code
        text = json.dumps(leak.to_dict()) + render_event(leak)
        assert "hunter2" not in text


class TestPromises:
    def test_allowed(self, lab, dsn):
        """What is held on purpose is not reported, whatever becomes of it."""
        listener = psycopg.connect(dsn)
        leakguard.allow(listener, "it listens")
        listener.execute("SELECT 1")
        lab.advance(1000)
        del listener
        lab.collect()
        assert lab.events == []

    def test_allowed_orphan(self, lab, dsn):
        """The leader's lock of an ended thread is in order when it was said to be."""

        def lead():
            conn = psycopg.connect(dsn)
            leakguard.allow(conn, "the leader's lock")
            return conn

        kept = in_thread(lead)
        lab.nothing()
        kept.close()

    def test_no_leaks(self, lab, dsn):
        """`no_leaks()` raises for what is still held at its end, and for what was dropped inside; else it is silent."""
        with pytest.raises(leakguard.ConnectionLeakError) as raised, leakguard.no_leaks():
            kept = psycopg.connect(dsn)  # LEAK
        assert [(leak.kind, leak.boundary, leak.certain) for leak in raised.value.leaks] == [
            ("outstanding", "no_leaks", True)
        ]
        with pytest.raises(leakguard.ConnectionLeakError) as raised, leakguard.no_leaks():
            drop(dsn)
        assert [leak.kind for leak in raised.value.leaks] == ["dropped"]
        with leakguard.no_leaks(), psycopg.connect(dsn):
            kept.close()

    def test_open_at_exit(self, lab, dsn):
        """A direct connection that is open at exit is ordinary."""
        conn = psycopg.connect(dsn)
        lab.runtime.at_exit()
        assert lab.kinds == []
        conn.close()

    def test_raise_at_check(self, dsn):
        """With `on_leak="raise"`, check() raises what was found, once."""
        with laboratory(on_leak="raise") as lab:
            drop(dsn)
            with pytest.raises(leakguard.ConnectionLeakError, match="dropped"):
                leakguard.check()
            assert leakguard.check() == []
            assert lab.counts() == (1, 0, 0, 1)


@pytest.mark.parametrize("way", ["function", "method", "async", "by name"])
def test_raise_from_the_next_connect(dsn, way):
    """With `on_leak="raise"` the next connect raises what was found, once, also one that is older than leakguard."""

    async def in_task():
        await (await psycopg.AsyncConnection.connect(dsn)).close()

    def connect():
        match way:
            case "function":
                psycopg.connect(dsn).close()
            case "method":
                psycopg.Connection.connect(dsn).close()
            case "async":
                asyncio.run(in_task())
            case "by name":
                connect_by_name(dsn).close()

    with laboratory(on_leak="raise") as lab:
        connect()
        drop(dsn)
        lab.collect()
        with pytest.raises(leakguard.ConnectionLeakError, match="dropped") as raised:
            connect()
        assert [leak.kind for leak in raised.value.leaks] == ["dropped"]
        connect()
        assert lab.counts() == (3, 2, 0, 1)


def test_pools_connect_whatever_waits_to_be_raised(dsn):
    """A pool's own connects are no acquires: they go on, and the leak waits for the application."""
    with laboratory(on_leak="raise") as lab:
        drop(dsn)
        lab.collect()
        with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            pool.wait()
            with pytest.raises(leakguard.ConnectionLeakError, match="dropped"):
                pool.getconn()
        drop(dsn)
        lab.collect()
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
        with pytest.raises(leakguard.ConnectionLeakError, match="dropped"):
            engine.connect()
        engine.connect().close()
        engine.dispose()
        with leakguard.watch(engine, on_leak=lambda _: None):  # judged by a guard of its own
            drop(dsn)
            lab.collect()
            engine.connect().close()
        with pytest.raises(leakguard.ConnectionLeakError, match="dropped"):
            psycopg.connect(dsn)
        engine.dispose()


def test_dropped_just_before_the_end(dsn):
    """With the watchdog thread waiting for signals, what was dropped a moment ago is not missed by a check."""
    events = []
    with leakguard.install(on_leak=events.append) as guard:
        for round_ in range(1, 11):
            drop(dsn)
            assert [leak.kind for leak in guard.check()] == ["dropped"]
            summary = guard.summary()
            assert (summary.acquired, summary.released, summary.leaked) == (round_, 0, round_)
