"""sqlite3: direct connections, and those below SQLAlchemy."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import sqlite3
import sys
import types
import warnings
import weakref
from contextlib import closing
from sqlite3 import connect as connect_by_name  # bound before leakguard is installed, as applications do

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

import leakguard
from leakguard.integrations.sqlite3 import Sqlite3Integration
from tests.integrations.support import in_thread, laboratory

# From Python 3.13 on, sqlite3 itself warns of a dropped connection; here that is the subject.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def drop(**more):
    conn = sqlite3.connect(":memory:", **more)  # LEAK
    conn.execute("SELECT 1")


class TestDirect:
    def test_dropped(self, lab):
        """A connection that is garbage-collected open is reported, which sqlite3 does from Python 3.13 on."""
        drop()
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed, leak.pool, leak.site.function) == (True, False, None, "drop")
        assert (leak.hold.library, leak.hold.operation, leak.hold.server) == ("sqlite3", "connect", None)
        assert "contextlib.closing(sqlite3.connect(" in leak.advice
        assert lab.counts() == (1, 0, 0, 1)

    def test_closed(self, lab):
        """Its clean twins: closed by hand, by `closing()`, and twice."""
        conn = sqlite3.connect(":memory:")
        conn.execute("SELECT 1")
        conn.close()
        conn.close()
        with closing(sqlite3.dbapi2.connect(":memory:")) as conn:
            conn.execute("SELECT 1")
        del conn
        lab.nothing()
        assert lab.counts() == (2, 2, 0, 0)

    def test_with_does_not_close(self, lab, tmp_path):
        """`with sqlite3.connect()` commits and leaves the connection open."""

        def leak():
            with sqlite3.connect(tmp_path / "db") as conn:  # LEAK
                conn.execute("CREATE TABLE t (x)")

        leak()
        lab.collect()
        lab.only("dropped")

    @pytest.mark.skipif(connect_by_name is not sqlite3.connect, reason="another tool has patched it")
    def test_imported_by_name(self, lab):
        """A `connect` that was imported by name before leakguard was installed is watched like any other."""
        connect_by_name(":memory:").close()
        sqlite3.dbapi2.connect(":memory:").close()
        assert lab.counts() == (2, 2, 0, 0)

    def test_held_for_ever(self, lab):
        """A connection that is kept for the life of the program is ordinary."""
        conn = sqlite3.connect(":memory:")
        lab.advance(100_000)
        assert lab.kinds == []
        conn.close()

    def test_orphaned(self, lab):
        """The thread that opened it has ended, and nobody has used it since."""
        kept = in_thread(lambda: sqlite3.connect(":memory:", check_same_thread=False))  # LEAK
        lab.advance(6)
        lab.only("orphaned")
        kept.close()

    @pytest.mark.parametrize("use", ["execute", "cursor of the other thread", "commit"])
    def test_used_by_another_thread(self, lab, use):
        """Whoever uses it becomes its owner."""

        def open_it():
            conn = sqlite3.connect(":memory:", check_same_thread=False)
            return conn, conn.cursor()

        conn, cursor = in_thread(open_it)
        for _ in range(10):
            lab.advance(4)
            match use:
                case "execute":
                    conn.execute("SELECT 1")
                case "cursor of the other thread":
                    cursor.execute("SELECT 1")
                case "commit":
                    conn.commit()
        assert lab.kinds == []
        assert leakguard.holds()[0].owner.thread == "MainThread"
        conn.close()

    def test_closed_in_the_wrong_thread(self, lab):
        """sqlite3 refuses to close in another thread: the connection stays open, and is held on."""
        conn = sqlite3.connect(":memory:")
        with pytest.raises(sqlite3.ProgrammingError):
            in_thread(conn.close)
        assert len(leakguard.holds()) == 1
        conn.close()
        assert leakguard.holds() == []

    def test_idle_in_transaction(self, lab):
        """An open write transaction locks everybody else out; a commit in time makes it harmless."""
        conn = sqlite3.connect(":memory:")  # LEAK
        conn.execute("CREATE TABLE t (x)")
        for _ in range(3):
            conn.execute("INSERT INTO t VALUES (1)")
            lab.advance(50)
            conn.commit()
        assert lab.kinds == []
        conn.execute("INSERT INTO t VALUES (1)")
        lab.advance(61)
        assert lab.only("idle_in_transaction").hold.state == "in_transaction"
        conn.close()

    def test_long_import_is_not_idle(self, lab):
        """A transaction that goes on for long is not idle while statements run in it."""
        conn = sqlite3.connect(":memory:")
        conn.execute("CREATE TABLE t (x)")
        conn.create_function("wait", 1, lab.advance)
        conn.execute("INSERT INTO t VALUES (1)")
        conn.execute("SELECT wait(100)").fetchall()
        cursor = conn.cursor()
        for _ in range(10):
            cursor.execute("INSERT INTO t VALUES (1)")
            lab.advance(50)
        assert lab.kinds == []
        conn.close()

    def test_what_is_told(self, lab):
        """State, statements and the latest of them, without its values."""
        conn = sqlite3.connect(":memory:")
        states = []
        conn.create_function("look", 0, lambda: states.append(leakguard.holds()[0].state))
        conn.execute("CREATE TABLE t (x)")
        conn.executemany("INSERT INTO t VALUES (?)", [("secret",)] * 3)
        conn.executescript("SELECT 1; SELECT 'hush'")
        conn.cursor().execute("SELECT look(), 'hush', ?", ("secret",)).fetchall()
        (hold,) = leakguard.holds()
        assert (hold.statements, hold.last_statement) == (4, "SELECT look(), ?, ?")
        assert (states, hold.state) == (["active"], "idle")
        assert hold.last_used_at is not None
        assert "secret" not in repr(hold)
        conn.close()

    def test_opened_before(self):
        """What was open before leakguard was installed is nobody's leak."""
        conn = sqlite3.connect(":memory:")
        with laboratory() as lab:
            conn.execute("SELECT 1")
            conn.close()
            lab.nothing()

    def test_survives_leakguard(self):
        """A connection that outlives leakguard goes on working, unwatched."""
        with laboratory():
            conn = sqlite3.connect(":memory:")
            cursor = conn.cursor()
        assert cursor.execute("SELECT 1").fetchone() == (1,)
        conn.close()

    def test_raise_from_the_next_connect(self):
        """With `on_leak="raise"` the next connect raises what was found, once."""
        with laboratory(on_leak="raise") as lab:
            drop()
            lab.collect()
            with pytest.raises(leakguard.ConnectionLeakError):
                sqlite3.connect(":memory:")
            sqlite3.connect(":memory:").close()

    def test_cannot_be_opened(self, lab):
        """An error is the error that it was, and nothing is held."""
        with pytest.raises(sqlite3.OperationalError, match="unable to open") as raised:
            sqlite3.connect("/nonexistent/db")
        assert not hasattr(raised.value, "__notes__")
        lab.nothing()


class OwnCursor(sqlite3.Cursor):
    pass


class OwnConnection(sqlite3.Connection):
    """With a cursor of its own."""

    def cursor(self, factory=OwnCursor):
        return super().cursor(factory)


class OwnInit(sqlite3.Connection):
    def __init__(self, database, timeout=1.0, *args, **kwargs):
        super().__init__(database, timeout=timeout, **kwargs)
        self.given = (timeout, args, kwargs)


class TestFactories:
    def test_types(self, lab):
        """What is handed out is a subclass that looks like what it stands for, and takes no attributes."""
        conn = sqlite3.connect(":memory:")
        assert isinstance(conn, sqlite3.Connection)
        assert repr(type(conn)) == repr(sqlite3.Connection)
        assert repr(conn).startswith("<sqlite3.Connection object")
        with pytest.raises(AttributeError):
            conn.colour = "red"
        assert isinstance(conn.cursor(), sqlite3.Cursor)
        assert isinstance(conn.execute("SELECT 1"), sqlite3.Cursor)
        assert conn.execute.__doc__ == sqlite3.Connection.execute.__doc__
        assert inspect.signature(sqlite3.Connection.commit) == inspect.signature(type(conn).commit)
        for function in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="cannot pickle"):
                function(conn)
        conn.close()

    def test_connect_looks_the_same(self):
        """The patched function has the name, module and docstring of the C function."""
        looks = [getattr(sqlite3.connect, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")]
        with laboratory():
            assert [
                getattr(sqlite3.connect, name) for name in ("__name__", "__qualname__", "__module__", "__doc__")
            ] == looks

    @pytest.mark.parametrize("by", ["keyword", "position"])
    @pytest.mark.parametrize("factory", [OwnConnection, OwnInit])
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_own_class(self, lab, factory, by):
        """The application's own class stays what it is, gets the arguments it was given, and is watched."""

        def connect():
            if by == "keyword":
                return sqlite3.connect(":memory:", 2.0, factory=factory)
            return sqlite3.connect(":memory:", 2.0, 0, None, True, factory)

        conn, other = connect(), connect()
        assert type(conn) is type(other)
        assert isinstance(conn, factory)
        assert (type(conn).__name__, type(conn).__doc__) == (factory.__name__, factory.__doc__)
        if factory is OwnConnection:
            assert isinstance(conn.cursor(), OwnCursor)
            assert type(conn.cursor()).__name__ == "OwnCursor"
        else:
            assert conn.given[0] == 2.0
        conn.cursor().execute("SELECT 1")
        assert leakguard.holds()[0].statements == 1
        conn.close()
        other.close()
        del conn, other
        lab.nothing()
        drop(factory=factory)
        lab.collect()
        lab.only("dropped")

    def test_factory_that_is_a_function(self, lab):
        """A function makes what it likes, also nothing of sqlite3's: that stays unwatched."""
        conn = sqlite3.connect(":memory:", factory=lambda *args, **kwargs: sqlite3.Connection(*args, **kwargs))
        assert type(conn) is sqlite3.Connection
        assert sqlite3.connect(":memory:", factory=lambda *args, **kwargs: None) is None
        assert leakguard.holds() == []
        conn.close()

    @pytest.mark.parametrize(
        "arguments", [((), {}), ((1, 2, 3, 4, 5, 6, 7, 8, 9), {}), ((":memory:", 1), {"timeout": 1})]
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_wrong_arguments(self, arguments):
        """Arguments that do not fit are refused by sqlite3, in its words."""
        args, kwargs = arguments
        with pytest.raises(TypeError) as bare:
            sqlite3.connect(*args, **kwargs)
        with laboratory(), pytest.raises(TypeError) as guarded:
            sqlite3.connect(*args, **kwargs)
        assert str(guarded.value) == str(bare.value)

    def test_positional_arguments(self, lab):
        """They are still accepted; where Python warns of them, it names the line that calls."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            conn = sqlite3.connect(":memory:", 5.0, sqlite3.PARSE_DECLTYPES, None, True)
        assert conn.isolation_level is None
        conn.close()
        assert {warning.filename for warning in said} <= {__file__}
        assert len(said) == (2 if (3, 13) <= sys.version_info < (3, 15) else 0)

    def test_everything_else(self, lab, tmp_path):
        """backup, blobopen, iterdump, row factories, converters, context manager and interrupt work as they did."""
        with closing(sqlite3.connect(":memory:", detect_types=sqlite3.PARSE_DECLTYPES)) as conn:
            conn.row_factory = sqlite3.Row
            with conn:
                conn.execute("CREATE TABLE t (x BLOB)")
                conn.execute("INSERT INTO t VALUES (zeroblob(3))")
            with pytest.raises(sqlite3.Error), conn:
                conn.execute("INSERT INTO t VALUES (1); nonsense")
            with conn.blobopen("t", "x", 1) as blob:
                blob.write(b"abc")
            (row,) = conn.execute("SELECT x FROM t")
            assert row["x"] == b"abc"
            assert any("CREATE TABLE" in line for line in conn.iterdump())
            with closing(sqlite3.connect(tmp_path / "copy")) as other:
                conn.backup(other)
                assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
            conn.interrupt()
            assert conn("SELECT 1") is not None
        del conn, other, blob, row
        lab.nothing()

    def test_cursor_made_by_hand(self, lab):
        """`sqlite3.Cursor(conn)` works, unseen."""
        with closing(sqlite3.connect(":memory:")) as conn:
            assert sqlite3.Cursor(conn).execute("SELECT 1").fetchone() == (1,)


class TestUndo:
    def test_names_are_put_back(self):
        """Every module that has `connect` by name has the very object again."""
        module = types.ModuleType("an_application")
        module.open_database = original = sqlite3.connect
        sys.modules["an_application"] = module
        try:
            with laboratory():
                assert module.open_database is sqlite3.connect is sqlite3.dbapi2.connect is not original
            assert module.open_database is sqlite3.connect is sqlite3.dbapi2.connect is original
        finally:
            del sys.modules["an_application"]

    def test_lazy_modules_stay_unloaded(self):
        """To look through the modules loads none that is still to be loaded."""
        import importlib.util

        spec = importlib.util.find_spec("this")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        lazy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(lazy)
        sys.modules["this"] = lazy
        try:
            with laboratory():
                pass
            assert "d" not in object.__getattribute__(lazy, "__dict__")
        finally:
            del sys.modules["this"]

    def test_nothing_is_kept_alive(self, lab):
        """Connections die as they would without leakguard."""
        conn = sqlite3.connect(":memory:")
        ref = weakref.ref(conn)
        conn.close()
        del conn
        gc.collect()
        assert ref() is None
        lab.collect()
        assert lab.tracker.wires == {}

    def test_every_version(self):
        """It comes with Python: there is no range."""
        assert Sqlite3Integration().versions is None


URL = "sqlite://"


class TestBelowSQLAlchemy:
    @pytest.mark.parametrize("poolclass", [QueuePool, NullPool, SingletonThreadPool, StaticPool])
    def test_one_hold(self, lab, tmp_path, poolclass):
        """The connection is the pool's: only the checkout is a hold, and each statement is counted once."""
        url = URL if poolclass in (SingletonThreadPool, StaticPool) else f"{URL}/{tmp_path}/db"
        engine = sa.create_engine(url, poolclass=poolclass)
        for _ in range(2):
            with engine.connect() as conn:
                conn.execute(sa.text("SELECT 1"))
                conn.execute(sa.text("SELECT 'hush'"))
                (hold,) = leakguard.holds()
                assert (hold.library, hold.statements, hold.state) == ("sqlalchemy", 2, "idle")
                assert hold.last_statement == "SELECT ?"
        assert lab.counts() == (2, 2, 0, 0)
        engine.dispose()
        del engine, conn
        lab.nothing()

    @pytest.mark.parametrize("poolclass", [QueuePool, SingletonThreadPool, StaticPool])
    def test_dropped(self, lab, tmp_path, poolclass):
        """A dropped checkout is SQLAlchemy's, and reported once."""
        engine = sa.create_engine(f"{URL}/{tmp_path}/db", poolclass=poolclass)

        def leak():
            engine.connect().execute(sa.text("SELECT 1"))  # LEAK

        leak()
        lab.collect()
        leaks = [leak for leak in lab.leaks if leak.kind == "dropped"]
        assert [leak.hold.library for leak in leaks] == ["sqlalchemy"]
        engine.dispose()

    def test_engine_without_dispose(self, lab, tmp_path):
        """An engine that is dropped keeps no server's connection open: there is no server."""

        def use():
            engine = sa.create_engine(f"{URL}/{tmp_path}/db")
            with engine.connect() as conn:
                conn.execute(sa.text("SELECT 1"))

        use()
        lab.nothing()

    def test_detached(self, lab, tmp_path):
        """A detached connection has to be closed by whoever detached it."""
        engine = sa.create_engine(f"{URL}/{tmp_path}/db")
        with engine.connect() as conn:
            conn.detach()
        lab.collect()
        assert lab.kinds == []

        def leak():
            engine.connect().detach()  # LEAK

        leak()
        lab.collect()
        lab.only("dropped")
        engine.dispose()

    def test_idle_in_transaction(self, lab, tmp_path):
        """A write transaction that is left open, and one in which a statement runs for long."""
        engine = sa.create_engine(f"{URL}/{tmp_path}/db")
        with engine.connect() as conn:  # LEAK
            conn.execute(sa.text("CREATE TABLE t (x)"))
            conn.execute(sa.text("INSERT INTO t VALUES (1)"))
            conn.connection.driver_connection.create_function("wait", 1, lab.advance)
            conn.execute(sa.text("SELECT wait(30)")).all()
            lab.advance(59)
            assert "idle_in_transaction" not in lab.kinds
            lab.advance(2)
            assert "idle_in_transaction" in lab.kinds
        engine.dispose()


class TestAiosqlite:
    def test_below_sqlalchemy(self, lab, tmp_path):
        """aiosqlite's connection is beneath SQLAlchemy's checkout, although its own thread has opened it."""
        aiosqlite = pytest.importorskip("aiosqlite")
        from sqlalchemy.ext.asyncio import create_async_engine

        async def main():
            engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db")
            async with engine.connect() as conn:
                await conn.execute(sa.text("SELECT 1"))
                (hold,) = leakguard.holds()
                assert (hold.library, hold.statements) == ("sqlalchemy", 1)
                raw = await conn.get_raw_connection()
                assert isinstance(raw.driver_connection, aiosqlite.Connection)
            await engine.dispose()

        asyncio.run(main())
        lab.nothing()

    def test_direct(self, lab):
        """By itself it is a direct connection of sqlite3, whose thread closes it."""
        aiosqlite = pytest.importorskip("aiosqlite")

        async def main():
            async with aiosqlite.connect(":memory:") as conn:
                await conn.execute("SELECT 1")
                assert [hold.library for hold in leakguard.holds()] == ["sqlite3"]

        asyncio.run(main())
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()
