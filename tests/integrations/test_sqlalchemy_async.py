"""SQLAlchemy's async engines, over psycopg and asyncpg."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import leakguard
from tests.integrations.support import MARK, aactive, aheld, url_for

# SQLAlchemy warns of what it cannot return itself; here that is the subject.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The garbage collector is trying to clean up:sqlalchemy.exc.SAWarning"),
]


@pytest.fixture(params=["psycopg", "asyncpg"])
def run(request, lab, dsn):
    """Runs ``main(engine)`` in a loop of its own, with an async engine that is disposed of at the end."""
    pytest.importorskip(request.param)

    def run(main, **options):
        async def body():
            options_ = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 5, **options}
            engine = create_async_engine(url_for(dsn, request.param), **options_)
            try:
                await main(engine)
            finally:
                await engine.dispose()

        asyncio.run(body())

    run.driver = request.param
    return run


def test_dropped(lab, run):
    """A dropped checkout is found although SQLAlchemy fires no `checkin` for it, and is healed."""

    async def leak(engine):
        conn = await engine.connect()  # LEAK
        await conn.execute(sa.text("SELECT 1"))

    async def main(engine):
        await leak(engine)
        lab.collect()
        found = lab.only("dropped")
        assert (found.hold.library, found.healed) == ("sqlalchemy", True)
        assert engine.pool.checkedout() == 0
        lab.advance(30)
        assert lab.kinds == ["dropped"]

    run(main)
    assert lab.counts() == (1, 0, 0, 1)


def test_stack_across_the_greenlet(lab, run):
    """The stack goes on beyond SQLAlchemy's greenlet to the application's own frames."""

    async def inner(engine):
        return await engine.connect()  # LEAK

    async def main(engine):
        conn = await inner(engine)
        hold = leakguard.holds()[0]
        assert hold.site.function == "inner"
        assert [frame.function for frame in hold.stack if frame.app][:2] == ["inner", "main"]
        assert hold.owner.task is not None
        await conn.close()

    run(main)
    lab.nothing()


def test_clean(lab, run):
    """close(), `async with`, begin(), AsyncSession, stream(), gather(), a cancelled task: nothing to say."""

    async def main(engine):
        conn = await engine.connect()
        await conn.close()
        async with engine.connect() as conn:
            await conn.execute(sa.text("SELECT 1"))
        async with engine.begin() as conn:
            await conn.execute(sa.text("SELECT 1"))
        async with AsyncSession(engine) as session:
            await session.execute(sa.text("SELECT 1"))
            await session.commit()
        async with engine.connect() as conn:
            result = await conn.stream(sa.text("SELECT generate_series(1, 10)"))
            async for _ in result:
                break

        async def work():
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT pg_sleep(0.01)"))

        await asyncio.gather(*(work() for _ in range(4)))
        assert lab.counts() == (9, 9, 0, 0)

    run(main)
    lab.nothing()


def test_cancelled_in_a_query(lab, run):
    """A task that is cancelled in mid-query inside `async with` gives its slot back."""

    async def main(engine):
        async def slow():
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT pg_sleep(30)"))

        task = asyncio.create_task(slow())
        await aactive()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert leakguard.holds() == []
        assert engine.pool.checkedout() == 0

    run(main)
    assert lab.counts()[2:] == (0, 0)
    lab.nothing()


def test_cancelled_while_holding(lab, run):
    """A task that is cancelled while it holds a connection without try/finally drops it."""

    async def main(engine):
        async def work():
            conn = await engine.connect()  # LEAK
            await asyncio.sleep(30)
            await conn.close()

        task = asyncio.create_task(work())
        await aheld()
        task.cancel()
        await asyncio.wait([task])
        del task
        lab.collect()

    run(main)
    lab.only("dropped")


def test_session_dropped(lab, run):
    """A session that is never closed."""

    async def main(engine):
        async def leak():
            session = AsyncSession(engine)
            await session.execute(sa.text("SELECT 1"))  # LEAK

        await leak()
        lab.collect()

    run(main)
    lab.only("dropped")


def test_orphaned(lab, run):
    """A connection that outlives its task; used by another that lives, it belongs to that one."""

    async def main(engine):
        kept = {}

        async def work(name):
            kept[name] = await engine.connect()  # LEAK

        await asyncio.create_task(work("left"), name="left")
        await asyncio.create_task(work("used"), name="used")
        lab.advance(3)
        await kept["used"].execute(sa.text("SELECT 1"))
        lab.advance(4)
        assert lab.only("orphaned").hold.owner.task == "left"
        for conn in kept.values():
            await conn.close()

    run(main)
    assert lab.counts() == (2, 2, 0, 0)


def test_statements_and_state(lab, run):
    """Statements are counted and told without literals; a running one is active; the server's end is known."""

    async def main(engine):
        async with engine.connect() as conn:
            await conn.execute(sa.text("SELECT 'secret', :x"), {"x": "parameter"})
            pid = (await conn.execute(sa.text("SELECT pg_backend_pid()"))).scalar()
            hold = leakguard.holds()[0]
            assert (hold.statements, hold.state, hold.server.backend_pid) == (2, "in_transaction", pid)
            assert "secret" not in str(hold)
            assert "parameter" not in hold.last_statement
            task = asyncio.create_task(conn.execute(sa.text("SELECT pg_sleep(0.3)")))
            await aactive()
            await task
            assert leakguard.holds()[0].state == "in_transaction"
            with pytest.raises(sa.exc.DBAPIError):
                await conn.execute(sa.text("SELECT 1/0"))
            assert leakguard.holds()[0].state in ("in_error", "in_transaction")  # asyncpg cannot tell the two apart
            await conn.rollback()

    run(main)
    assert lab.kinds == []


def test_idle_in_transaction(lab, run):
    """Measured since the last statement, here too."""

    async def main(engine):
        async with engine.connect() as conn:  # LEAK
            await conn.execute(sa.text("SELECT 1"))
            lab.advance(30)
            await conn.execute(sa.text("SELECT 1"))
            lab.advance(59)
            assert lab.kinds == ["overdue"]
            lab.advance(2)
            assert lab.kinds == ["overdue", "idle_in_transaction"]

    run(main)
    assert all(MARK in leak.site.code for leak in lab.leaks)


def test_nested(lab, run):
    """A second connection in one task is advice; in another task it is none."""

    async def main(engine):
        async def other():
            async with engine.connect():
                pass

        async with engine.connect():
            await asyncio.create_task(other())
            lab.runtime.beat()
            assert lab.kinds == []
            async with engine.connect():  # LEAK
                pass

    run(main)
    lab.runtime.beat()
    lab.only("nested_acquire")


def test_invalidated(lab, run):
    """invalidate() ends the hold, asynchronously too."""

    async def main(engine):
        conn = await engine.connect()
        await conn.invalidate()
        assert leakguard.holds() == []
        await conn.close()

    run(main)
    assert lab.counts() == (1, 1, 0, 0)
    lab.nothing()


def test_fetched_by_the_library_alone(lab, run):
    """`wait_for(engine.connect().start())` fetches for the caller: no orphan."""

    async def main(engine):
        conn = engine.connect()
        await asyncio.wait_for(conn.start(), 5)
        lab.advance(50)
        await conn.close()

    run(main)
    assert lab.kinds == []


def test_unclosed(lab, dsn):
    """An async engine that is forgotten with an idle connection was never disposed of."""

    async def leak():
        engine = create_async_engine(url_for(dsn, "psycopg"))  # LEAK
        async with engine.connect() as conn:
            await conn.execute(sa.text("SELECT 1"))

    asyncio.run(leak())
    lab.collect()
    lab.only("unclosed_pool")
