"""The readings of the register: right after every way that a hold can end, and equal to what the server says."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout
from sqlalchemy.ext.asyncio import create_async_engine

import leakguard
from leakguard.telling.metrics import DURATIONS, METRICS
from leakguard.telling.registry import OTHER, SERIES_LIMIT, Tally
from tests.factories import make_leak
from tests.integrations.support import Lab, steady, until, url_for
from tests.reporters.support import Gauge, ServerSide, named

# ------------------------------------------------------------------------------------------- what a pool has and holds


def test_connections_are_idle_or_used(gauge: Gauge, dsn: str) -> None:
    """A checkout moves one from idle to used, and its return moves it back."""
    with ConnectionPool(dsn, min_size=2, max_size=4, name="shop") as pool:
        steady(pool)
        before = gauge.pool("shop")
        with pool.connection():
            during = gauge.pool("shop")
        after = gauge.pool("shop")
    assert [(one.idle, one.used) for one in (before, during, after)] == [(2, 0), (1, 1), (2, 0)]
    assert before.capacity == 4
    assert (before.pending, before.timeouts, before.lost) == (0, 0, 0)


class Visitor:
    """One thread's part in the test below: it does whatever comes, and knows what it holds."""

    def __init__(self, seed: int, url: str, pool: ConnectionPool, engine: sqlalchemy.Engine) -> None:
        self._chance = random.Random(seed)
        self._url, self._pool, self._engine = url, pool, engine
        self.pooled: list[psycopg.Connection] = []
        self.checked_out: list[sqlalchemy.Connection] = []
        self.others: list[sqlalchemy.Connection | psycopg.Connection] = []

    def act(self) -> None:
        """Six things."""
        for _ in range(6):
            try:
                self._act_once()
            except (PoolTimeout, sqlalchemy.exc.TimeoutError):
                pass

    def _act_once(self) -> None:
        match self._chance.randrange(9):
            case 0 | 1:
                self.pooled.append(self._pool.getconn())
            case 2 | 3:
                self.checked_out.append(self._engine.connect())
            case 4 if self.pooled:
                self._pool.putconn(self.pooled.pop())
            case 5 if self.pooled:
                connection = self.pooled.pop()
                connection.close()
                self._pool.putconn(connection)
            case 6 if self.checked_out:
                connection = self.checked_out.pop()  # dropped, unless it is closed
                if self._chance.random() < 0.5:
                    connection.close()
            case 7 if self.checked_out:
                connection = self.checked_out.pop()
                if self._chance.random() < 0.5:
                    connection.invalidate()
                    connection.close()
                else:
                    connection.detach()
                    self.others.append(connection)
            case 8:
                self.others.append(psycopg.connect(self._url))
        if len(self.others) > 1:  # the server has room for twenty
            self.others.pop(0).close()

    def leave(self) -> None:
        """Give everything back."""
        for connection in self.pooled:
            self._pool.putconn(connection)
        for connection in (*self.checked_out, *self.others):
            connection.close()


@pytest.mark.slow
def test_the_numbers_are_the_servers_under_threads(gauge: Gauge, dsn: str) -> None:
    """Four threads acquire, release, close, invalidate, detach and drop; whenever they pause, the sums are right."""
    url = named(dsn, "leakguard-truth")
    server = ServerSide(dsn, "leakguard-truth")
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(url), pool_size=3, max_overflow=1, pool_timeout=0.01
    )
    with ConnectionPool(url, min_size=0, max_size=5, name="shop", timeout=0.05) as pool:
        visitors = [Visitor(seed, url, pool, engine) for seed in range(4)]
        try:
            for _ in range(25):
                with ThreadPoolExecutor(4) as threads:
                    for done in [threads.submit(visitor.act) for visitor in visitors]:
                        done.result()
                gc.collect()

                def agrees() -> bool:
                    return sum(one.idle + one.used for one in gauge.read().pools) == server.sessions()

                until(agrees, "the server's number")
                readings = {one.name: one for one in gauge.read().pools}
                assert readings["shop"].used == sum(len(visitor.pooled) for visitor in visitors)
                assert readings["QueuePool-1"].used == sum(len(visitor.checked_out) for visitor in visitors)
                assert readings["direct connections"].used == sum(len(visitor.others) for visitor in visitors)
                assert readings["shop"].pending == readings["QueuePool-1"].pending == 0
        finally:
            for visitor in visitors:
                visitor.leave()
            engine.dispose()
    until(lambda: server.sessions() == 0, "the end of all sessions")
    assert sum(one.idle + one.used for one in gauge.read().pools) == 0
    server.close()


@pytest.mark.slow
def test_waiting_acquires_are_pending_and_connects_are_not(gauge: Gauge, dsn: str) -> None:
    """A pool that cannot reach its server has connects under way, but nobody waits for them."""
    with ConnectionPool(dsn, min_size=1, max_size=1, name="shop", timeout=5.0) as pool:
        steady(pool)
        connection = pool.getconn()
        waiting = [threading.Thread(target=lambda: pool.putconn(pool.getconn())) for _ in range(3)]
        for thread in waiting:
            thread.start()
        until(lambda: gauge.pool("shop").pending == 3, "three acquires that wait")
        pool.putconn(connection)
        for thread in waiting:
            thread.join(10)
        assert gauge.pool("shop").pending == 0

    listener = socket.create_server(("127.0.0.1", 0))  # takes connections in, and never answers
    with ConnectionPool(f"postgresql://127.0.0.1:{listener.getsockname()[1]}/x", min_size=2, name="far") as pool:
        record = gauge.record("far")
        until(lambda: record.connecting() == 2, "two connects under way")
        assert gauge.pool("far").pending == 0
        listener.close()


def test_an_acquire_in_vain_is_a_timeout(gauge: Gauge, dsn: str) -> None:
    """Also where the server is to blame; the pending count is zero again after it."""
    with ConnectionPool(dsn, min_size=1, max_size=1, name="shop") as pool:
        with pool.connection():
            for _ in range(2):
                with pytest.raises(PoolTimeout):
                    pool.getconn(timeout=0.01)
        assert (gauge.pool("shop").timeouts, gauge.pool("shop").pending) == (2, 0)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with ConnectionPool(f"postgresql://127.0.0.1:{port}/x", min_size=1, name="far") as pool:
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.05)
        assert (gauge.pool("far").timeouts, gauge.pool("far").pending) == (1, 0)
    engine = sqlalchemy.create_engine(url_for(dsn, "psycopg"), pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError):
        engine.connect()
    assert (gauge.pool("QueuePool-1").timeouts, gauge.pool("QueuePool-1").pending) == (1, 0)
    engine.dispose()


def test_a_counter_does_not_go_down_when_a_pool_is_replaced_by_its_like(gauge: Gauge, dsn: str) -> None:
    """``dispose()`` gives an engine a new pool of the same name; when the last one is gone, so is the series."""
    engine = sqlalchemy.create_engine(url_for(dsn, "psycopg"), pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect(), pytest.raises(sqlalchemy.exc.TimeoutError):
        engine.connect()
    assert gauge.pool("QueuePool-1").timeouts == 1
    engine.dispose()
    gc.collect()
    assert gauge.pool("QueuePool-1").timeouts == 1
    engine.dispose()
    del engine
    gc.collect()
    assert gauge.pools() == []


def test_a_counter_begins_again_with_a_pool_that_comes_later(gauge: Gauge, dsn: str) -> None:
    """As after a restart, which whoever reads counters knows."""
    for _ in range(2):
        with ConnectionPool(dsn, min_size=1, max_size=1, name="shop") as pool:
            with pool.connection(), pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.01)
            assert gauge.pool("shop").timeouts == 1
        del pool
        gc.collect()
        assert gauge.pools() == []


def test_a_pool_that_is_gone_leaves_no_reading(gauge: Gauge, dsn: str) -> None:
    """Neither one that was closed and collected, nor one that was never closed."""
    pool = ConnectionPool(dsn, min_size=0, max_size=4, name="shop", open=False)
    assert gauge.pools() == ["shop"]
    del pool
    gc.collect()
    assert gauge.pools() == []


def test_the_oldest_hold_is_told_unless_it_is_allowed(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """A listener that is held on purpose for months must not set off the alert for forgotten ones."""
    with ConnectionPool(dsn, min_size=2, name="shop") as pool:
        with pool.connection() as listener:
            lab.advance(100.0)
            with pool.connection():
                lab.advance(5.0)
                assert gauge.pool("shop").oldest == pytest.approx(105.0)
                leakguard.allow(listener, "listens for as long as the service runs")
                assert gauge.pool("shop").oldest == pytest.approx(5.0)
            assert gauge.pool("shop").oldest == 0.0


def test_a_checkout_that_was_closed_is_no_server_connection(gauge: Gauge, dsn: str) -> None:
    """It still has to be returned, but the server knows nothing of it."""
    with ConnectionPool(dsn, min_size=1, max_size=1, name="shop") as pool:
        steady(pool)
        connection = pool.getconn()
        connection.close()
        reading = gauge.pool("shop")
        assert (reading.used, reading.idle) == (0, 0)
        pool.putconn(connection)


def test_a_lost_slot_is_told(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """The server shows nothing of it, and the pool is smaller for ever."""
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        pool.getconn()
        lab.collect()
        reading = gauge.pool("shop")
        assert (reading.lost, reading.used, reading.capacity) == (1, 0, 2)


def test_stacked_pools_count_each_connection_once(gauge: Gauge, dsn: str) -> None:
    """An engine over a psycopg pool: what the engine has is not the pool's as well."""
    server = ServerSide(dsn, "leakguard-stacked")
    with ConnectionPool(named(dsn, "leakguard-stacked"), min_size=2, name="inner") as inner:
        steady(inner)
        engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=inner.getconn, pool_size=1)
        with engine.connect():
            readings = {one.name: (one.idle, one.used) for one in gauge.read().pools}
            assert readings == {"direct connections": (0, 0), "inner": (1, 0), "QueuePool-1": (0, 1)}
        readings = {one.name: (one.idle, one.used) for one in gauge.read().pools}
        assert readings == {"direct connections": (0, 0), "inner": (1, 0), "QueuePool-1": (1, 0)}
        assert server.sessions() == 2
        engine.dispose()
    server.close()


def test_each_guard_exports_its_own(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """A pool that was given to ``watch()`` is not exported by ``install()`` as well."""
    with (
        ConnectionPool(dsn, min_size=0, max_size=4, name="ours", open=False) as ours,
        ConnectionPool(dsn, min_size=0, max_size=4, name="theirs", open=False) as theirs,
        leakguard.watch(ours, on_leak=lab.events.append) as guard,
    ):
        assert theirs is not ours
        mine = Gauge(lab, guard)
        assert (mine.pools(), gauge.pools()) == (["ours"], ["theirs"])


async def test_a_collected_async_connection_is_used_no_more(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """OpenTelemetry's own instrumentation counts it as used for ever: no event tells of the end."""
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    engine = create_async_engine(url_for(dsn, "asyncpg"), pool_size=2)
    theirs = instrumentation.SQLAlchemyInstrumentor()
    theirs.instrument(engine=engine.sync_engine, meter_provider=provider, skip_dep_check=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SQLAlchemy says that the collector came by
            for _ in range(3):
                connection = await engine.connect()
                await connection.exec_driver_sql("SELECT 1")
                del connection
                lab.collect()
                await asyncio.sleep(0)
        (pool,) = [one for one in gauge.read().pools if not one.direct]
        assert (pool.used, pool.pending) == (0, 0)
        assert theirs_used(reader) == 3  # if this fails, their drift is gone, and so may be this line
    finally:
        theirs.uninstrument()
        provider.shutdown()
        await engine.dispose()


def theirs_used(reader: Any) -> int:
    """What OpenTelemetry's instrumentation believes to be in use."""
    return sum(
        point.value
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name.startswith("db.client.connections.usage")
        for point in metric.data.data_points
        if point.attributes["state"] == "used"
    )


# ------------------------------------------------------------------------------------------------------------ durations


def test_waiting_using_and_creating_are_measured(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """By leakguard's clock, for every library alike."""
    with ConnectionPool(dsn, min_size=1, max_size=1, name="shop") as pool:
        steady(pool)
        with pool.connection():
            lab.moment += 7.0
    engine = sqlalchemy.create_engine(url_for(dsn, "psycopg"))
    with engine.connect():
        lab.moment += 2.0
    engine.dispose()
    assert gauge.of("use") == [7.0, 2.0]
    assert gauge.of("wait") == [0.0, 0.0]
    assert len(gauge.of("create")) == 2


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
async def test_creating_is_measured_for_async_engines(gauge: Gauge, dsn: str, driver: str) -> None:
    """In real time, from SQLAlchemy's own note of when it began."""
    engine = create_async_engine(url_for(dsn, driver))
    async with engine.connect():
        pass
    await engine.dispose()
    (seconds,) = gauge.of("create")
    assert 0.0005 < seconds < 10.0


async def test_the_async_pool_is_measured(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """A wait is measured in the task that waits, whatever others do meanwhile."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=1, name="shop", open=False) as pool:
        async with pool.connection():
            waiting = asyncio.create_task(pool.getconn())
            await asyncio.sleep(0)
            lab.moment += 3.0
        connection = await waiting
        await pool.putconn(connection)
    assert sorted(gauge.of("wait")) == [0.0, 3.0]
    assert gauge.of("use") == [3.0, 0.0]


async def test_asyncpgs_pool_is_read_and_measured(gauge: Gauge, dsn: str) -> None:
    """As any other."""
    asyncpg = pytest.importorskip("asyncpg")
    async with asyncpg.create_pool(dsn, min_size=2, max_size=2) as pool:
        async with pool.acquire():
            (name,) = gauge.pools()
            reading = gauge.pool(name)
            assert (reading.used, reading.idle, reading.capacity, reading.pending) == (1, 1, 2, 0)
            async with pool.acquire():
                with pytest.raises(TimeoutError):
                    await pool.acquire(timeout=0.01)
        reading = gauge.pool(name)
    assert (reading.used, reading.idle, reading.timeouts, reading.pending) == (0, 2, 1, 0)
    assert [len(gauge.of(duration)) for duration in ("create", "wait", "use")] == [2, 2, 2]


def test_psycopg2s_pool_is_read_and_measured(gauge: Gauge, dsn: str) -> None:
    """As any other."""
    psycopg2_pool = pytest.importorskip("psycopg2.pool")
    pool = psycopg2_pool.ThreadedConnectionPool(2, 2, dsn)
    connections = pool.getconn(), pool.getconn()
    (name,) = gauge.pools()
    with pytest.raises(psycopg2_pool.PoolError):
        pool.getconn()
    pool.putconn(connections[0])
    reading = gauge.pool(name)
    assert (reading.used, reading.idle, reading.capacity) == (1, 1, 2)
    assert (reading.timeouts, reading.pending) == (1, 0)
    pool.putconn(connections[1])
    pool.closeall()
    assert [len(gauge.of(duration)) for duration in ("create", "wait", "use")] == [2, 2, 2]


def test_a_refused_connect_creates_nothing(gauge: Gauge) -> None:
    """Only what was opened has a time of creation."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    engine = sqlalchemy.create_engine(f"postgresql+psycopg://127.0.0.1:{port}/x")
    with pytest.raises(sqlalchemy.exc.OperationalError):
        engine.connect()
    assert gauge.of("create") == gauge.of("wait") == []


# ------------------------------------------------------------------------------------------------------------ the caps


def test_the_first_hundred_bugs_have_series_of_their_own() -> None:
    """The others are counted all the same, and how many they are is said."""
    tally = Tally()
    for number in range(SERIES_LIMIT + 50):
        tally.add(make_leak(fingerprint=f"{number:012x}"), "shop")
    tally.add(make_leak(fingerprint=f"{0:012x}"), "shop")
    readings = {one.fingerprint: one for one in tally.readings()}
    assert len(readings) == SERIES_LIMIT + 1
    assert readings[f"{0:012x}"].count == 2
    assert (readings[OTHER].count, readings[OTHER].pool, readings[OTHER].site, tally.unnamed) == (50, OTHER, None, 50)


@pytest.mark.slow
def test_the_first_hundred_pools_have_series_of_their_own(gauge: Gauge, dsn: str) -> None:
    """An engine for each request makes no series for each: those that come later share one, for good."""
    pools = [ConnectionPool(dsn, min_size=0, max_size=4, name=f"pool-{n}", open=False) for n in range(SERIES_LIMIT + 9)]
    names = [one.name for one in gauge.read().pools]
    assert len(names) == len(set(names)) == SERIES_LIMIT + 1
    assert gauge.pool(OTHER).capacity == 10 * 4
    pools.clear()
    gc.collect()
    pool = ConnectionPool(dsn, min_size=0, max_size=4, name="late", open=False)
    assert gauge.pools() == [OTHER]
    del pool


# ------------------------------------------------------------------------------------------------------------ the table


def test_leaks_are_told_by_kind_pool_and_bug(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """And the line of a bug stands beside it."""
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        pool.getconn()
        lab.collect()
    leak = lab.only("dropped", mark=None)
    assert leak.site is not None
    labels = (("kind", "dropped"), ("pool", "shop"), ("fingerprint", leak.fingerprint))
    assert gauge.metric("leakguard.leaks") == {labels: 1}
    (((_, site), _),) = [labels[1:] for labels in gauge.metric("leakguard.bug.info")]
    assert site == f"{Path(__file__)}:{leak.site.line}"


def test_an_ignored_leak_is_not_counted(gauge: Gauge, lab: Lab, dsn: str) -> None:
    """What is never reported sets off no alert."""
    lab.guard.configure(ignore="pool=shop")
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        pool.getconn()
        lab.collect()
    assert gauge.metric("leakguard.leaks") == {}


def test_the_table_is_that_of_the_conventions() -> None:
    """Names, units and descriptions of ``db.client.*`` are those of the installed package, to the letter."""
    conventions = pytest.importorskip("opentelemetry.semconv._incubating.metrics.db_metrics")
    attributes = pytest.importorskip("opentelemetry.semconv._incubating.attributes.db_attributes")
    from leakguard.reporters import otel

    class Meter:
        def __getattr__(self, kind: str) -> Any:
            return lambda **said: (kind.removeprefix("create_").replace("_", ""), *said.values())

    ours = {metric.name: (metric.kind, metric.unit, metric.description) for metric in METRICS}
    ours |= {metric.name: ("histogram", "s", metric.description) for metric in DURATIONS}
    theirs = {}
    for name in ours:
        if name.startswith("db."):
            kind, told, *_ = getattr(conventions, f"create_{name.replace('.', '_')}")(Meter())
            theirs[name] = (kind, *reversed(_))
            assert told == name
    assert {name: said for name, said in ours.items() if name.startswith("db.")} == theirs
    assert otel._ATTRIBUTES["pool"] == attributes.DB_CLIENT_CONNECTION_POOL_NAME
    assert otel._ATTRIBUTES["state"] == attributes.DB_CLIENT_CONNECTION_STATE


def test_every_metric_is_documented() -> None:
    """By its OpenTelemetry name, its Prometheus name and its unit."""
    from leakguard.reporters.prometheus import sample_of

    page = (Path(__file__).parents[2] / "docs" / "production.md").read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"| `{metric.name}` | `{sample_of(metric)}` | {metric.unit}" in page
    for duration in DURATIONS:
        assert f"| `{duration.name}` | `{duration.name.replace('.', '_')}_seconds` | s" in page
