"""Never in the way: exact undo, unchanged signatures, nothing kept alive, and errors of our own that nobody notices."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import sqlite3
import sys
import threading
import weakref
from pathlib import Path

import asyncpg
import psycopg
import psycopg2.pool
import psycopg_pool
import pytest
import sqlalchemy as sa
from asyncpg import connect_utils
from asyncpg.pool import PoolConnectionHolder, PoolConnectionProxy
from asyncpg.protocol.protocol import Protocol
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from psycopg_pool.base import BasePool
from sqlalchemy.engine import Connection as SAConnection
from sqlalchemy.engine import Engine
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.pool import Pool

import leakguard
from leakguard import libraries, runtime
from tests.integrations.support import Lab, in_thread, laboratory, steady, url_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def subclasses(cls):
    for sub in cls.__subclasses__():
        yield sub
        yield from subclasses(sub)


def touched():
    """Every class and module that an integration may change."""
    cursors = [getattr(psycopg, name) for name in dir(psycopg) if name.endswith("Cursor")]
    connections = [psycopg.BaseConnection, psycopg.Connection, psycopg.AsyncConnection]
    pools = [BasePool, *subclasses(BasePool)]
    alchemy = [Pool, *subclasses(Pool), Engine, SAConnection, Dialect, *subclasses(Dialect)]
    modules = [psycopg, psycopg_pool, sa, sys.modules["sqlalchemy.pool"], sys.modules["sqlalchemy.engine"]]
    modules += [sqlite3, sqlite3.dbapi2, psycopg2, psycopg2.pool]
    pools += [psycopg2.pool.AbstractConnectionPool, *subclasses(psycopg2.pool.AbstractConnectionPool)]
    connections += [asyncpg.Connection, Protocol, *Protocol.__mro__[1:3], asyncio.timeouts.Timeout]
    pools += [asyncpg.Pool, PoolConnectionHolder, PoolConnectionProxy]
    modules += [asyncpg, asyncpg.connection, asyncpg.pool, connect_utils]
    return list(dict.fromkeys([*cursors, *connections, *pools, *alchemy, *modules]))


def listeners():
    found = {}
    for target in (Pool, Engine, Dialect):
        for name in target.dispatch._event_names:
            registered = getattr(target.dispatch, name)._clslevel
            found[target, name] = {cls: list(fns) for cls, fns in registered.items() if fns}
    return found


def picture():
    own = {"_num_pool", "_uid"}  # where psycopg_pool counts its pools, and asyncpg its portals
    state = {id(thing): (thing, {k: v for k, v in vars(thing).items() if k not in own}) for thing in touched()}
    return state, listeners(), list(sys.meta_path)


def differences(before, after):
    found = []
    for key, (thing, old) in before[0].items():
        new = after[0][key][1]
        found += [(thing, name) for name in old.keys() | new.keys() if old.get(name) is not new.get(name)]
    if before[1] != after[1]:
        found.append(("listeners", [key for key in before[1] if before[1][key] != after[1][key]]))
    if before[2] != after[2]:
        found.append(("meta_path", after[2]))
    return found


def test_exact_undo():
    """install() changes something, and uninstall() leaves everything as it was, to the very objects."""
    with laboratory():  # warm up: SQLAlchemy fills its listener collections lazily, for good
        pass
    before = picture()
    with laboratory():
        assert differences(before, picture())
    assert differences(before, picture()) == []


def test_exact_undo_after_use(dsn):
    """Also after connections, pools and engines of every kind were used, the second driver's listeners included."""

    def use():
        with psycopg.connect(dsn) as conn:
            conn.execute("SELECT 1")
        psycopg2.connect(dsn).close()
        psycopg2.pool.ThreadedConnectionPool(1, 1, dsn).closeall()
        sqlite3.connect(":memory:").close()
        asyncio.run(with_asyncpg(dsn))
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, pool.connection():
            pass
        engine = sa.create_engine(url_for(dsn, "psycopg2"))
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
        engine.dispose()

    with laboratory():
        use()
    before = picture()
    with laboratory():
        use()
    assert differences(before, picture()) == []


def test_undo_below_another_tool():
    """What another tool wrapped later stays wrapped, and our wrapper below it has become inert."""
    original = ConnectionPool.getconn
    with laboratory():
        ours = ConnectionPool.getconn

        def theirs(self, *args, **kwargs):
            return ours(self, *args, **kwargs)

        ConnectionPool.getconn = theirs
    try:
        assert ConnectionPool.getconn is theirs
    finally:
        ConnectionPool.getconn = original


def test_inert_wrappers_pass_through(dsn):
    """A bound method that was taken while leakguard was installed works on, unwatched, after its end."""
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        with laboratory():
            getconn, putconn = pool.getconn, pool.putconn
        conn = getconn()
        conn.execute("SELECT 1")
        putconn(conn)
        steady(pool)


def test_subclasses_made_meanwhile(dsn):
    """A class that was derived while leakguard was installed has nothing of it in the end, and connects to itself."""
    with laboratory():

        class Mine(psycopg.Connection):
            pass

        with Mine.connect(dsn) as conn:
            assert type(conn) is Mine
    with Mine.connect(dsn) as conn:
        assert type(conn) is Mine
    with psycopg.connect(dsn) as conn:
        assert type(conn) is psycopg.Connection


WRAPPED = [
    (psycopg.BaseConnection, "__init__"),
    (psycopg.Connection, "close"),
    (psycopg.AsyncConnection, "close"),
    (psycopg.Connection, "wait"),
    (psycopg.AsyncConnection, "wait"),
    (psycopg.Connection, "connect"),
    (psycopg.AsyncConnection, "connect"),
    (psycopg.Cursor, "execute"),
    (psycopg.AsyncCursor, "execute"),
    (psycopg.AsyncCursor, "executemany"),
    (psycopg.AsyncServerCursor, "execute"),
    (psycopg.ServerCursor, "execute"),
    (psycopg, "connect"),
    (BasePool, "__init__"),
    (ConnectionPool, "getconn"),
    (ConnectionPool, "putconn"),
    (AsyncConnectionPool, "getconn"),
    (AsyncConnectionPool, "putconn"),
    (psycopg2.pool.AbstractConnectionPool, "__init__"),
    (psycopg2.pool.AbstractConnectionPool, "_connect"),
    (psycopg2.pool.AbstractConnectionPool, "_getconn"),
    (psycopg2.pool.SimpleConnectionPool, "getconn"),
    (psycopg2.pool.SimpleConnectionPool, "putconn"),
    (psycopg2.pool.SimpleConnectionPool, "closeall"),
    (asyncpg.Pool, "__init__"),
    (asyncpg.Pool, "_acquire"),
    (asyncpg.Pool, "_get_new_connection"),
    (asyncpg.Connection, "_cleanup"),
    (asyncpg.Connection, "_on_release"),
    (asyncpg.Connection, "__del__"),
    (PoolConnectionHolder, "_release"),
    (Protocol, "query"),
    (Protocol, "bind_execute"),
    (Protocol, "copy_in"),
    (connect_utils, "_connect"),
    (asyncio.timeouts.Timeout, "_on_timeout"),
    (Pool, "connect"),
    (Pool, "__init__"),
    (sa.pool.SingletonThreadPool, "connect"),
    (sa.pool.QueuePool, "recreate"),
]


@pytest.mark.parametrize(("owner", "name"), WRAPPED, ids=[f"{owner.__name__}.{name}" for owner, name in WRAPPED])
def test_looks_the_same(owner, name):
    """A wrapped function has the name, docstring, signature and kind of the original."""
    # A method written in C may know no module, no signature, and not that it is awaited (asyncpg 0.29): then there is
    # nothing to look like.
    written_in_c = not hasattr(getattr(owner, name), "__module__")

    def looks():
        function = getattr(owner, name)
        return (
            function.__name__,
            function.__qualname__,
            None if written_in_c else function.__module__,
            function.__doc__,
            None if written_in_c else inspect.signature(function),
            None if written_in_c else inspect.iscoroutinefunction(function),
        )

    before = looks()
    with laboratory():
        assert looks() == before


def test_code_looks_the_same_where_it_is_read():
    """SQLAlchemy reads a pool's options from the code object of `__init__`: those names have to be there."""
    before = Pool.__init__.__code__
    with laboratory():
        ours = Pool.__init__.__code__
        assert ours.co_varnames[: ours.co_argcount] == before.co_varnames[: before.co_argcount]
        assert ours.co_flags & inspect.CO_VARKEYWORDS == before.co_flags & inspect.CO_VARKEYWORDS


def test_disabled_touches_nothing():
    """`enabled=False` patches nothing at all."""
    before = picture()
    guard = leakguard.install(enabled=False)
    assert differences(before, picture()) == []
    guard.uninstall()


@pytest.mark.slow
def test_nothing_stays_on_the_objects(dsn):
    """What leakguard writes on pools, connections and connection records goes with it; a next install starts afresh."""
    engine = sa.create_engine(url_for(dsn, "psycopg"))
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool, psycopg.connect(dsn) as direct:
        pool.wait()
        for _ in range(2):
            with laboratory() as lab:
                with pool.connection() as pooled, engine.connect() as connection:
                    fairy = connection.connection
                    record, raw = fairy._connection_record, fairy.driver_connection
                    pooled.execute("SELECT 1")
                    direct.execute("SELECT 1")
                marked = (pool, pooled, record, raw)
                assert all("_leakguard" in vars(one) for one in marked)
                assert lab.counts()[:2] == (2, 2)
            assert not [one for one in (*marked, direct) if "_leakguard" in vars(one)]
    engine.dispose()


@pytest.mark.slow
def test_a_thousand_rounds():
    """1,000 rounds of install and uninstall leave threads, files and objects as they were."""

    def rounds(count):
        for _ in range(count):
            leakguard.install(on_leak=lambda event: None).uninstall()
        gc.collect()

    rounds(20)
    threads, files, objects = (
        threading.active_count(),
        len(list(Path("/proc/self/fd").iterdir())),
        len(gc.get_objects()),
    )
    rounds(1000)
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) <= files
    assert len(gc.get_objects()) - objects < 200


@pytest.mark.slow
def test_rounds_with_the_watchdog(dsn):
    """With connections in between, each round's threads are gone at its end."""
    before = threading.active_count()
    for _ in range(5):
        with leakguard.install(on_leak=lambda event: None):
            psycopg.connect(dsn).close()
            assert threading.active_count() > before
        assert threading.active_count() == before


def test_nothing_is_kept_alive(lab, dsn):
    """Pools, engines, connections, threads and tasks die as they would without leakguard."""
    refs = {}

    def use():
        pool = ConnectionPool(dsn, min_size=1, max_size=1, open=True)
        with pool.connection() as conn:
            conn.execute("SELECT 1")
            refs["pooled connection"] = weakref.ref(conn)
        leaked = pool.getconn()
        leaked.execute("SELECT 1")
        pool.close()
        engine = sa.create_engine(url_for(dsn, "psycopg"))
        connection = engine.connect()
        direct = psycopg.connect(dsn)
        thread = threading.current_thread()
        for name, thing in {
            "pool": pool,
            "leaked": leaked,
            "engine": engine,
            "sa pool": engine.pool,
            "sa connection": connection,
            "direct": direct,
            "thread": thread,
        }.items():
            refs[name] = weakref.ref(thing)

        async def main():
            refs["task"] = weakref.ref(asyncio.current_task())
            conn = await psycopg.AsyncConnection.connect(dsn)
            await conn.execute("SELECT 1")

        asyncio.run(main())

    in_thread(use)
    gc.collect()
    gc.collect()
    assert [name for name, ref in refs.items() if ref() is not None] == []
    lab.collect()
    lab.advance(20)
    assert lab.tracker.wires == {}
    assert lab.tracker.pools == {}


def test_exceptions_pass_unchanged(lab, dsn):
    """What a library raises is what the application gets: type, text, cause and no extra context."""
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        with psycopg.connect(dsn) as foreign, pytest.raises(ValueError) as raised:
            pool.putconn(foreign)
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None


# ---------------------------------------------------------------------- errors of our own

FAULTS = [
    "tracker.acquired",
    "tracker.released",
    "tracker.begin",
    "tracker.used",
    "tracker.statement",
    "tracker.wire_of",
    "tracker.add_wire",
    "tracker.wire_closed",
    "tracker.pool_of",
    "tracker.add_pool",
    "tracker.give_to_pool",
    "tracker.owners.current",
    "tracker.recorder.capture",
    "tracker.recorder.capture_all",
    "snapshots.groups",
    "snapshots.hold",
]


def with_psycopg2(dsn):
    """A direct connection, a pool, and the errors of both."""
    with contextlib.closing(psycopg2.connect(dsn)) as conn, conn, conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        yield cursor.fetchone()
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(dsn, user="nobody at all", password="hush", options="-c no_such=1")
    pool = psycopg2.pool.ThreadedConnectionPool(0, 1, dsn)
    conn = pool.getconn("key")
    assert pool.getconn("key") is conn
    with pytest.raises(psycopg2.pool.PoolError):
        pool.getconn()
    pool.putconn(conn, "key")
    with pytest.raises(psycopg2.pool.PoolError):
        pool.putconn(conn)
    conn = pool.getconn()
    pool.closeall()
    yield conn.closed


def with_sqlite3():
    """A direct connection, and SQLAlchemy over another."""
    with contextlib.closing(sqlite3.connect(":memory:")) as conn, conn:
        yield conn.execute("SELECT 1").fetchall()
        with pytest.raises(sqlite3.OperationalError):
            conn.cursor().execute("nonsense")
    engine = sa.create_engine("sqlite://")
    with engine.connect() as conn:
        yield conn.execute(sa.text("SELECT 1")).scalar()
    engine.dispose()


async def with_asyncpg(dsn):
    """A direct connection, a pool, and the errors of both."""
    con = await asyncpg.connect(dsn)
    results = [await con.fetchval("SELECT 1")]
    with pytest.raises(asyncpg.DivisionByZeroError):
        await con.fetchval("SELECT 1/0")
    await con.close()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(dsn, database="nowhere")
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        async with pool.acquire() as con, con.transaction():
            results.append(await con.fetchval("SELECT $1::int", 2))
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=0.01)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await pool.acquire()
        await (await pool.acquire()).close()
        results += [pool.get_size(), await pool.fetchval("SELECT 3")]
    return results


def application(dsn):
    """A little of everything; its result is what must not change."""
    results = []
    with psycopg.connect(dsn) as conn:
        results.append(conn.execute("SELECT 1").fetchone())
    with pytest.raises(psycopg.errors.DivisionByZero), psycopg.connect(dsn) as conn:
        conn.execute("SELECT 1/0")
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        with pool.connection() as conn:
            results.append(conn.execute("SELECT 2").fetchone())
            with pytest.raises(psycopg_pool.PoolTimeout):
                pool.getconn(timeout=0.01)
        results.append(pool.get_stats()["pool_size"])
    results += [*with_psycopg2(dsn), *with_sqlite3(), *asyncio.run(with_asyncpg(dsn))]
    engine = sa.create_engine(url_for(dsn, "psycopg"), pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect() as conn:
        results.append(conn.execute(sa.text("SELECT 3")).scalar())
        with pytest.raises(sa.exc.TimeoutError):
            engine.connect()
    with engine.begin() as conn:
        conn.detach()
        results.append(conn.execute(sa.text("SELECT 4")).scalar())
    conn = engine.connect()
    conn.invalidate()
    conn.close()
    results.append(engine.pool.checkedout())
    engine.dispose()

    async def main():
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
            async with pool.connection() as conn:
                results.append(await (await conn.execute("SELECT 5")).fetchone())

    asyncio.run(main())
    return results


class Fault(Exception):
    pass


@pytest.fixture
def quiet(caplog):
    """Our own log lines about these errors are read from caplog, not printed."""
    return caplog


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(dsn, fault, quiet):
    """Whichever of our functions fails inside the application's calls, these give what they always give."""
    expected = application(dsn)
    with laboratory(errors=None) as lab:
        path = fault.split(".")
        holder: object = lab.runtime
        for name in path[:-1]:
            holder = getattr(holder, name)
        original = getattr(holder, path[-1])
        calls = []

        def fail(*args, **kwargs):
            calls.append(fault)
            raise Fault(fault)

        class Failing:
            """Stands in where the attribute cannot be set (slots, C types)."""

            def __init__(self, inner):
                self.__dict__["inner"] = inner

            def __getattr__(self, name):
                return fail if name == path[-1] else getattr(self.inner, name)

            def __setattr__(self, name, value):
                setattr(self.inner, name, value)

        try:
            setattr(holder, path[-1], fail)
            restore = lambda: setattr(holder, path[-1], original)  # noqa: E731
        except AttributeError:
            parent: object = lab.runtime
            for name in path[:-2]:
                parent = getattr(parent, name)
            setattr(parent, path[-2], Failing(holder))
            restore = lambda: setattr(parent, path[-2], holder)  # noqa: E731
        try:
            assert application(dsn) == expected
            lab.runtime.beat()
        finally:
            restore()
        if fault == "snapshots.hold":
            return  # no report was due
        assert calls
        assert lab.runtime.internal_errors > 0
        assert "internal error" in quiet.text


def test_switches_itself_off(dsn, quiet):
    """An integration that fails again and again is taken out, and says so once."""
    with laboratory(errors=None) as lab:

        def fail(*args, **kwargs):
            raise Fault

        lab.tracker.acquired = fail
        with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
            for _ in range(libraries.ERRORS_UNTIL_OFF + 5):
                with pool.connection():
                    pass
        assert lab.runtime.internal_errors == libraries.ERRORS_UNTIL_OFF
        assert quiet.text.count("no longer watched") == 1


def test_reporter_that_raises(dsn, quiet):
    """A reporter that raises is switched off and logged once; the others go on, and so does the application."""
    told = []

    def broken(event):
        raise Fault("the reporter")

    with laboratory(errors=1, on_leak=[broken, told.append]) as lab:

        def leak():
            psycopg.connect(dsn)

        for _ in range(3):
            leak()
            lab.collect()
            lab.advance(11)
        assert [event.count for event in told] == [1, 2, 3]
        assert quiet.text.count("internal error") == 1


def test_application_without_leakguard_in_the_way(dsn):
    """The little program gives the same with and without leakguard."""
    expected = application(dsn)
    with laboratory() as lab:
        assert application(dsn) == expected
        lab.collect()
        assert set(lab.kinds) <= {"nested_acquire"}
        acquired, released, held, leaked = lab.counts()
        assert (acquired, held, leaked) == (released, 0, 0)


def test_lab_uninstalls():
    """The tests' own laboratory leaves the process's runtime as it was."""
    before = runtime.current()
    with laboratory() as lab:
        assert isinstance(lab, Lab)
        assert runtime.current() is lab.runtime
    assert runtime.current() is before
    assert os.getpid()
