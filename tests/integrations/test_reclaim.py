"""``reclaim="dropped"``: a pool gets back the slots that nobody can give back any more, and no others."""

from __future__ import annotations

import asyncio
import gc
import logging
import time

import pytest
from psycopg_pool import AsyncConnectionPool, AsyncNullConnectionPool, ConnectionPool, NullConnectionPool, PoolTimeout

import leakguard
from leakguard.model import Event, Leak
from tests.integrations.support import laboratory

pytestmark = pytest.mark.slow


def leak(pool: ConnectionPool) -> None:
    """Take one and forget it."""
    pool.getconn()


@pytest.mark.parametrize("kind", [ConnectionPool, NullConnectionPool])
def test_a_pool_of_one_works_again(dsn: str, kind: type[ConnectionPool], caplog: pytest.LogCaptureFixture) -> None:
    """The next getconn succeeds, again and again, and each act is logged with the line that lost the slot."""
    size = {} if kind is NullConnectionPool else {"min_size": 1}
    with laboratory(reclaim="dropped") as lab, kind(dsn, max_size=1, open=True, **size) as pool:
        for number in range(1, 4):
            leak(pool)
            lab.collect()
            lab.advance(0.25)
            assert set(lab.kinds) == {"dropped"}
            with pool.connection(timeout=5) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
            del connection  # the next one is this very object
            said = [record.getMessage() for record in caplog.records if record.name == "leakguard"]
            acts = [text for text in said if "has got back the slot" in text]
            assert len(acts) == number
            assert f"test_reclaim.py:{leak.__code__.co_firstlineno + 2} in leak" in acts[-1]
        assert pool.get_stats()["pool_size"] <= 1
        assert lab.runtime.internal_errors == 0


@pytest.mark.parametrize("reclaim", ["off", "dropped"])
def test_what_is_in_use_is_never_touched(dsn: str, reclaim: str) -> None:
    """Held for long, idle in a transaction, closed by hand: suspected, proven, but not taken."""
    with laboratory(reclaim=reclaim, threshold=1, idle_in_transaction=1) as lab:
        with ConnectionPool(dsn, min_size=0, max_size=2, open=True) as pool:
            used, closed = pool.getconn(), pool.getconn()
            used.execute("SELECT 1")
            closed.close()
            lab.advance(10)
            lab.advance(10)
            assert {"overdue", "idle_in_transaction", "lost_slot"} <= set(lab.kinds)
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.2)
            assert used.execute("SELECT 2").fetchone() == (2,)
            pool.putconn(used)
            pool.putconn(closed)
            with pool.connection(timeout=5), pool.connection(timeout=5):
                pass


def test_off_by_default(dsn: str) -> None:
    """Nothing is given back that nobody asked for: the pool stays dry."""
    with laboratory() as lab, ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        leak(pool)
        lab.collect()
        lab.advance(0.25)
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.2)
    assert lab.kinds.count("dropped") == 1


def test_a_pool_that_never_lost_one_is_left_alone(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """The clean twin: a hundred checkouts, every one returned, and not a word."""
    with laboratory(reclaim="dropped") as lab, ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        for _ in range(100):
            with pool.connection():
                pass
        lab.collect()
        lab.advance(100)
        assert lab.kinds == []
        assert pool.get_stats()["pool_size"] == 1
    assert [record for record in caplog.records if record.name == "leakguard"] == []


@pytest.mark.parametrize("kind", [AsyncConnectionPool, AsyncNullConnectionPool])
async def test_an_async_pool_of_one_works_again(dsn: str, kind: type[AsyncConnectionPool]) -> None:
    """The watchdog asks the pool's own loop to take it back; the real clock, because the loop has one too."""
    told: list[Event] = []
    with leakguard.install(on_leak=told.append, reclaim="dropped") as guard:
        async with kind(dsn, min_size=0, max_size=1) as pool:

            async def forget() -> None:
                await pool.getconn()

            for _ in range(3):
                await forget()
                gc.collect()
                async with pool.connection(timeout=5) as connection:
                    await connection.execute("SELECT 1")
                del connection  # the next one may be this very object
        assert [leak.kind for leak in guard.check()] == ["dropped"] * 3
    assert [event.count for event in told if isinstance(event, Leak)][-1] == 3


async def test_a_pool_whose_loop_is_gone_is_not_waited_for(dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could take it back: said, and nothing is harmed."""
    caplog.set_level(logging.WARNING, "leakguard")

    def in_another_loop() -> AsyncConnectionPool:
        async def work() -> AsyncConnectionPool:
            pool = AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False)
            await pool.open(wait=True)
            held.append(await pool.getconn())
            return pool

        with asyncio.Runner() as runner:
            return runner.run(work())

    held: list[object] = []
    with leakguard.install(on_leak=lambda _event: None, reclaim="dropped") as guard:
        pool = await asyncio.to_thread(in_another_loop)
        held.clear()
        assert "dropped" in [leak.kind for leak in guard.check()]
        deadline = time.monotonic() + 5
        while not caplog.records and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
    assert "could not be given back the slot" in caplog.text
    assert pool
