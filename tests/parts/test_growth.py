"""assert_no_growth: finds what grows every round and names it, and lets everything pass that stops growing."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import threading

import psycopg
import pytest
import sqlalchemy
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy.pool import NullPool

import leakguard
from leakguard import GrowthError, assert_no_growth, runtime

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(autouse=True)
def leaves_nothing_installed():
    """Each test begins and ends without a guard."""
    assert not runtime.current().guards
    yield
    assert not runtime.current().guards


@pytest.fixture
def stack():
    """Closes at the end what a test has kept."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def pool(dsn):
    """A pool with room for what the tests leak."""
    with ConnectionPool(dsn, min_size=1, max_size=12, open=True) as pool:
        yield pool


def growths(fn, **options):
    """What grew, as the error tells it."""
    with pytest.raises(GrowthError) as caught:
        assert_no_growth(fn, **options)
    return caught.value.growths, str(caught.value)


# ---------------------------------------------------------------------------------------------------------- grows


def test_direct_connections_that_are_kept(dsn, stack):
    """One more direct connection each round: its line, its numbers, and what to write."""
    kept = []

    def scenario():
        conn = psycopg.connect(dsn)  # LEAK
        stack.callback(conn.close)
        kept.append(conn)

    (growth,), text = growths(scenario, rounds=3)
    assert (growth.what, growth.counts, growth.per_round) == ("hold", (1, 2, 3, 4), (1, 1))
    assert (growth.library, growth.pool) == ("psycopg", None)
    assert growth.site.function == "scenario"
    assert "LEAK" in growth.site.code
    assert text.startswith("1 thing grew in each of 3 rounds:\n\n  +1 hold a round  ")
    assert f"test_growth.py:{growth.site.line}" in text
    assert "counts: 1, 2, 3, 4" in text
    assert "in scenario, by psycopg:" in text


def test_checkouts_that_are_kept(pool, stack):
    """Two checkouts each round at one line, and the pool's name."""
    kept = []

    def scenario():
        kept.extend([pool.getconn(), pool.getconn()])  # LEAK

    stack.callback(lambda: [pool.putconn(conn) for conn in kept])
    (growth,), text = growths(scenario, rounds=3)
    assert (growth.what, growth.counts, growth.pool) == ("hold", (2, 4, 6, 8), pool.name)
    assert f'+2 holds of pool "{pool.name}" a round' in text


def test_lost_slots(pool):
    """A checkout that is dropped is held by nobody any more; its slot is lost each round all the same."""

    def scenario():
        conn = pool.getconn()
        conn.execute("SELECT 1")

    (growth,), text = growths(scenario, rounds=3)
    assert (growth.what, growth.counts) == ("lost slot", (1, 2, 3, 4))
    assert growth.site.function == "scenario"
    assert "+1 lost slot of pool" in text
    assert "Write instead:\n        with pool.connection() as conn:" in text


def test_engines(dsn, stack):
    """An engine for each call: one pool more each round, by the line that creates it, and nothing else."""
    kept = []
    url = dsn.replace("postgresql://", "postgresql+psycopg://")

    def scenario():
        engine = sqlalchemy.create_engine(url)
        stack.callback(engine.dispose)
        kept.append(engine)
        with engine.connect() as conn:
            conn.execute(sqlalchemy.text("SELECT 1"))

    (growth,), text = growths(scenario, rounds=3)
    assert (growth.what, growth.counts) == ("pool", (1, 2, 3, 4))
    assert "create_engine" in growth.site.code
    assert "+1 pool a round" in text
    assert "created in scenario, by sqlalchemy:" in text


def test_without_warmup_and_with_uneven_steps(dsn, stack):
    """Without a warm-up the first round counts; a growth that differs from round to round is told as a range."""
    kept = []

    def scenario():
        kept.extend(stack.enter_context(psycopg.connect(dsn)) for _ in range(1 + len(kept) % 2))

    (growth,), text = growths(scenario, rounds=3, warmup=0)
    assert growth.counts == (0, 1, 3, 5)
    assert "+1 to +2 holds a round" in text


def test_several_things(dsn, pool, stack):
    """All that grows is told, the largest first."""
    kept = []

    def scenario():
        kept.append(stack.enter_context(psycopg.connect(dsn)))
        kept.extend([pool.getconn(), pool.getconn()])

    stack.callback(lambda: [pool.putconn(conn) for conn in kept if hasattr(conn, "_pool")])
    found, text = growths(scenario, rounds=2)
    assert [growth.per_round for growth in found][-1] == (1, 1)
    assert {growth.pool for growth in found} == {None, pool.name}
    assert text.startswith(f"{len(found)} things grew in each of 2 rounds:")


async def test_async(dsn):
    """A coroutine function is awaited round by round; so is whatever else returns an awaitable."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=10, open=False) as pool:
        kept = []

        async def scenario():
            kept.append(await pool.getconn())

        for fn in (scenario, lambda: scenario()):
            with pytest.raises(GrowthError) as caught:
                await assert_no_growth(fn, rounds=2)
            (growth,) = caught.value.growths
            assert growth.counts == (1, 2, 3)
            for conn in kept:
                await pool.putconn(conn)
            kept.clear()


def test_works_while_installed(pool):
    """With a guard of the application's it counts the same, and leaves the guard where it is."""
    with leakguard.install(on_leak=lambda event: None) as guard:
        with pytest.raises(GrowthError):
            assert_no_growth(lambda: pool.getconn() and None, rounds=2)
        assert runtime.current().guards == [guard]


# ------------------------------------------------------------------------------------------------- does not grow


def test_clean_scenario(dsn, pool):
    """What is given back does not grow."""

    def scenario():
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1")

    assert assert_no_growth(scenario) is None


def test_caches_and_listeners_stop_growing(dsn, stack):
    """A connection that the first rounds open and keep is no growth."""
    cache = {}
    calls = []

    def scenario():
        calls.append(1)
        key = min(len(calls), 3)
        if key not in cache:
            cache[key] = stack.enter_context(psycopg.connect(dsn))

    assert_no_growth(scenario)
    assert len(calls) == 6


def test_dropped_direct_connections_do_not_add_up(dsn):
    """What the collector closes each time is a leak, but nothing grows."""
    assert_no_growth(lambda: psycopg.connect(dsn) and None, rounds=3)


def test_a_pool_that_fills_up_to_its_size(pool):
    """A pool that opens its connections in the course of the rounds is a pool at work."""

    def scenario():
        with pool.connection(), pool.connection(), pool.connection():
            pass

    assert_no_growth(scenario, rounds=3, warmup=0)


def test_engine_that_is_disposed(dsn):
    """The clean twin of an engine for each call."""
    url = dsn.replace("postgresql://", "postgresql+psycopg://")

    def scenario():
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as conn:
            conn.execute(sqlalchemy.text("SELECT 1"))
        engine.dispose()

    assert_no_growth(scenario, rounds=3)
    engine = sqlalchemy.create_engine(url, poolclass=NullPool)
    assert_no_growth(lambda: engine.connect().close(), rounds=3)


def test_given_back_by_another_thread_a_little_later(pool):
    """A background return that comes late is waited for, once, at the end."""
    threads = []

    def scenario():
        conn = pool.getconn()
        threads.append(threading.Timer(0.03, pool.putconn, [conn]))
        threads[-1].start()

    assert_no_growth(scenario, rounds=3)
    for thread in threads:
        thread.join()


async def test_given_back_by_a_task_a_little_later(dsn):
    """The same for a task, which only runs while the check sleeps."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=8, open=False) as pool:
        tasks = []

        async def give_back(conn):
            await asyncio.sleep(0.02)
            await pool.putconn(conn)

        async def scenario():
            tasks.append(asyncio.create_task(give_back(await pool.getconn())))

        await assert_no_growth(scenario, rounds=3)
        await asyncio.gather(*tasks)


def test_what_was_held_before_does_not_count(dsn, stack):
    """Only what the rounds acquire is counted, and what is allowed is not."""
    with leakguard.install(on_leak=lambda event: None):
        kept = [stack.enter_context(psycopg.connect(dsn))]

        def scenario():
            conn = stack.enter_context(psycopg.connect(dsn))
            leakguard.allow(conn, "a listener each round")
            kept.append(conn)

        assert_no_growth(scenario, rounds=2)


# --------------------------------------------------------------------------------------------------------- edges


def test_what_the_scenario_raises_propagates():
    """The scenario's own error is not covered up, and the temporary guard goes."""

    def scenario():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        assert_no_growth(scenario)


@pytest.mark.parametrize("options", [{"rounds": 1}, {"rounds": True}, {"rounds": 2.5}, {"warmup": -1}, {"warmup": "1"}])
def test_bad_numbers(options):
    """A wrong number of rounds is refused with what is accepted, before anything runs."""
    with pytest.raises(ValueError, match=r"assert_no_growth\(.*\) is not accepted: a whole number, at least [02]"):
        assert_no_growth(lambda: pytest.fail("ran"), **options)


def test_the_error():
    """It is an assertion that failed and one of leakguard's errors, and it crosses processes as its text."""
    error = GrowthError("1 thing grew")
    assert isinstance(error, AssertionError)
    assert isinstance(error, leakguard.LeakguardError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (GrowthError, "1 thing grew")
