"""Direct connections of asyncpg, and what leakguard leaves as it was below SQLAlchemy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings
import weakref

import pytest

import leakguard
from tests.integrations.support import aactive, auntil, laboratory, url_for

asyncpg = pytest.importorskip("asyncpg")

from asyncpg import connect as bound_before  # noqa: E402 - as an application does: by name, before leakguard comes

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_dropped(lab, dsn):
    """A connection that is collected while it is open was closed by nobody, whatever asyncpg then does to it."""

    async def leak():
        con = await asyncpg.connect(dsn)  # LEAK
        await con.fetchval("SELECT 1")

    async def main():
        await leak()
        lab.collect()

    asyncio.run(main())
    found = lab.only("dropped")
    assert (found.certain, found.healed, found.pool) == (True, False, None)
    assert (found.hold.library, found.hold.operation, found.hold.pool) == ("asyncpg", "connect", None)
    assert found.hold.statements == 1
    assert "await con" in found.advice
    assert lab.counts() == (1, 0, 0, 1)
    lab.advance(100)
    assert lab.kinds == ["dropped"]


@pytest.mark.parametrize("way", ["in a cycle", "with its loop", "in debug mode"])
def test_dropped_otherwise(lab, dsn, way):
    """Also in a cycle of garbage, after the end of its loop, and where asyncpg remembers a stack of its own."""

    async def main():
        con = await asyncpg.connect(dsn)  # LEAK
        if way == "in a cycle":
            things = [con]
            things.append(things)
            del con, things
            lab.collect()
        elif way == "with its loop":
            kept.append(con)

    kept = []
    asyncio.run(main(), debug=way == "in debug mode")
    kept.clear()
    lab.collect()
    lab.only("dropped")
    assert lab.counts() == (1, 0, 0, 1)


def test_clean(lab, dsn):
    """close(), terminate(), a connection that another object's finalizer closes, one that listens: nothing to say."""

    class Wrapper:
        def __init__(self, con):
            self.con, self.cycle = con, self

        def __del__(self):
            self.con.terminate()

    async def main():
        con = await asyncpg.connect(dsn)
        async with con.transaction():
            await con.execute("SELECT 1")
        await con.close()
        await con.close()
        con = await bound_before(dsn)
        con.terminate()
        Wrapper(await asyncpg.connection.connect(dsn))
        lab.collect()
        con = await asyncpg.connect(dsn)
        await con.add_listener("news", print)
        lab.advance(1000)
        await con.close()
        assert lab.counts() == (4, 4, 0, 0)

    asyncio.run(main())
    lab.nothing()


def test_raise(dsn):
    """With `on_leak="raise"`, the next connect raises what was found."""

    async def leak():
        await asyncpg.connect(dsn)  # LEAK

    async def main(lab):
        await leak()
        await asyncio.sleep(0)
        lab.collect()
        with pytest.raises(leakguard.ConnectionLeakError):
            await asyncpg.connect(dsn)
        await (await asyncpg.connect(dsn)).close()

    with laboratory(on_leak="raise") as lab:
        asyncio.run(main(lab))


def test_warning_of_its_own(lab, dsn):
    """asyncpg goes on warning of what it finds unclosed, with the same words."""

    async def leak():
        await asyncpg.connect(dsn)

    async def main():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            await leak()
            await asyncio.sleep(0)  # asyncpg 0.31 has a task of its own that refers to the connection
            gc.collect()
        assert ["unclosed connection" in str(warning.message) for warning in said] == [True]

    asyncio.run(main())


def test_orphaned(lab, dsn):
    """A connection that outlives its task; used by another task, it is that one's."""

    async def main():
        kept = {}

        async def work(name):
            kept[name] = await asyncpg.connect(dsn)  # LEAK

        await asyncio.create_task(work("left"), name="left")
        await asyncio.create_task(work("used"), name="used")
        lab.advance(3)
        await kept["used"].execute("SELECT 1")
        lab.advance(4)
        assert lab.only("orphaned").hold.owner.task == "left"
        for con in kept.values():
            await con.close()

    asyncio.run(main())
    assert lab.counts() == (2, 2, 0, 0)


def test_idle_in_transaction(lab, dsn):
    """A transaction in which nothing runs is suspected; one whose statement runs is not."""

    async def main():
        con = await asyncpg.connect(dsn)  # LEAK
        await con.execute("BEGIN")
        task = asyncio.create_task(con.execute("SELECT pg_sleep(0.2)"))
        await aactive()
        lab.advance(200)
        assert (lab.kinds, leakguard.holds()[0].state) == ([], "active")
        await task
        lab.advance(59)
        assert lab.kinds == []
        lab.advance(2)
        assert lab.only("idle_in_transaction").hold.state == "in_transaction"
        await con.close()

    asyncio.run(main())


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_killed_by_the_server(lab, dsn, kill, busy):
    """What the server has ended is over, whatever becomes of the object."""

    async def main():
        con = await asyncpg.connect(dsn)
        task = asyncio.create_task(con.execute("SELECT pg_sleep(30)" if busy else "SELECT 1"))
        await (aactive() if busy else asyncio.wait([task]))
        await asyncio.to_thread(kill, con.get_server_pid())
        # InternalClientError: asyncpg may be in the midst of reading the server's farewell.
        errors = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, ConnectionError)
        with contextlib.suppress(*errors):
            await task
            await con.execute("SELECT 1")
        await auntil(con.is_closed, "the server's farewell")
        assert leakguard.holds() == []

    asyncio.run(main())
    assert lab.counts() == (1, 1, 0, 0)
    lab.nothing()


def test_broken_below(lab, dsn):
    """A connection that its own protocol has given up is over with the statement that shows it."""

    async def main():
        con = await asyncpg.connect(dsn)
        con._protocol.abort()
        assert con.is_closed()
        with pytest.raises(asyncpg.InterfaceError):
            await con._protocol.query("SELECT 1", None)
        assert leakguard.holds() == []

    asyncio.run(main())
    lab.nothing()


def test_allowed(lab, dsn):
    """`allow()` takes a connection."""

    async def main():
        leakguard.allow(await asyncpg.connect(dsn), "it listens")
        lab.collect()

    asyncio.run(main())
    assert lab.kinds == []


def test_subclass(lab, dsn):
    """Connections of a class of the application's own."""

    class Mine(asyncpg.Connection):
        pass

    async def leak():
        con = await asyncpg.connect(dsn, connection_class=Mine)  # LEAK
        await con.fetchval("SELECT 1")
        return weakref.ref(con)

    async def main():
        ref = await leak()
        lab.collect()
        assert ref() is None

    asyncio.run(main())
    assert lab.only("dropped").hold.statements == 1


def test_double(dsn, monkeypatch):
    """What a test puts in the place of a connection is no connection."""

    class Double:
        pass

    async def _connect_addr(**kwargs):
        return Double()

    monkeypatch.setattr(asyncpg.connect_utils, "_connect_addr", _connect_addr)
    with laboratory() as lab:
        assert isinstance(asyncio.run(asyncpg.connect(dsn)), Double)
        lab.collect()
        assert lab.counts() == (0, 0, 0, 0)
        lab.nothing()


def test_rejected_hosts(lab, dsn):
    """Only what `connect()` returns is a hold; hosts that it tried and gave up are none."""

    async def main():
        with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
            await asyncpg.connect(dsn, target_session_attrs="standby")
        con = await asyncpg.connect(dsn, target_session_attrs="prefer-standby")
        assert lab.counts() == (1, 0, 1, 0)
        await con.close()

    asyncio.run(main())
    lab.nothing()


def test_refused(lab, dsn):
    """A refused connect carries the holders, and is told of."""

    async def main():
        held = []

        async def connect_all():
            while True:
                held.append(await bound_before(dsn))  # HOLDER

        with pytest.raises(asyncpg.TooManyConnectionsError) as raised:
            await connect_all()
        (note,) = raised.value.__notes__
        assert note.startswith("leakguard: ")
        assert "# HOLDER" in note
        for con in held:
            await con.close()
        lab.runtime.beat()
        assert {event.cause for event in lab.refusals} <= {"server", "reserved"}
        with pytest.raises(asyncpg.InvalidCatalogNameError) as other:
            await asyncpg.connect(dsn, database="nowhere")
        assert not hasattr(other.value, "__notes__")

    asyncio.run(main())
    assert lab.counts()[2:] == (0, 0)


@pytest.mark.slow
def test_cancelled_at_each_step(lab, dsn):
    """Cancelled after any number of turns of the loop, while it connects, runs or closes: no alarm, nothing lost."""

    async def work():
        con = await asyncpg.connect(dsn)
        try:
            await con.fetchval("SELECT 1")
        finally:
            await con.close()

    async def main():
        for turns in range(60):
            task = asyncio.create_task(work())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            del task
            lab.collect()
            assert (lab.kinds, leakguard.holds()) == ([], [])

    asyncio.run(main())
    lab.nothing()


def test_nothing_is_kept_alive(lab, dsn):
    """A connection dies as it would without leakguard, and is forgotten."""

    async def main():
        con = await asyncpg.connect(dsn)
        await con.fetchval("SELECT 1")
        refs = [weakref.ref(con), weakref.ref(con._protocol)]
        await con.close()
        del con
        return refs

    refs = asyncio.run(main())
    gc.collect()
    assert [ref() for ref in refs] == [None, None]
    lab.collect()
    assert lab.tracker.wires == {}


def test_uninstalled_meanwhile(dsn):
    """A connection outlives the guard: nothing of ours stays on it, and the next guard does not know it."""

    async def main():
        with laboratory() as lab:
            con = await asyncpg.connect(dsn)
            assert lab.counts() == (1, 0, 1, 0)
        assert "_leakguard" not in vars(con._protocol)
        with laboratory() as lab:
            await con.fetchval("SELECT 1")
            await con.close()
            assert lab.counts() == (0, 0, 0, 0)
            lab.nothing()

    asyncio.run(main())


class TestBelowSQLAlchemy:
    """Of a SQLAlchemy engine over asyncpg, SQLAlchemy's checkouts alone are judged and counted."""

    @pytest.fixture
    def run(self, lab, dsn):
        sqlalchemy_asyncio = pytest.importorskip("sqlalchemy.ext.asyncio")

        def run(main):
            async def body():
                engine = sqlalchemy_asyncio.create_async_engine(url_for(dsn, "asyncpg"), pool_size=1, max_overflow=1)
                try:
                    await main(engine)
                finally:
                    await engine.dispose()

            asyncio.run(body())

        return run

    def test_counts(self, lab, run):
        """One hold, and each statement once: BEGIN, COMMIT and asyncpg's own are not among them."""
        import sqlalchemy as sa

        async def main(engine):
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT 1"))
                await conn.commit()
                await conn.execute(sa.text("SELECT 2"))
                (hold,) = leakguard.holds()
                assert (hold.library, hold.statements, hold.last_statement) == ("sqlalchemy", 2, "SELECT ?")
            assert lab.counts() == (1, 1, 0, 0)

        run(main)
        lab.nothing()

    def test_closed_behind_its_back(self, lab, run):
        """The checkout goes on when the driver's connection is closed: SQLAlchemy waits for its return."""

        async def main(engine):
            conn = await engine.connect()
            await (await conn.get_raw_connection()).driver_connection.close()
            (hold,) = leakguard.holds()
            assert (hold.library, hold.state) == ("sqlalchemy", "closed")
            await conn.invalidate()
            await conn.close()

        run(main)
        lab.nothing()

    def test_beneath_its_back(self, lab, run):
        """What runs on the driver's own connection is seen: it is active, not idle in a transaction."""
        import sqlalchemy as sa

        async def main(engine):
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT 1"))
                driver = (await conn.get_raw_connection()).driver_connection
                task = asyncio.create_task(driver.execute("SELECT pg_sleep(0.2)"))
                await aactive()
                lab.advance(59)
                (hold,) = leakguard.holds()
                assert (hold.state, hold.statements) == ("active", 1)
                lab.advance(0.5)
                await task
                assert leakguard.holds()[0].state == "in_transaction"

        run(main)
        assert lab.kinds == []
