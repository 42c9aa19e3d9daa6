"""psycopg2: direct connections, its pools, and both below SQLAlchemy."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import ClassVar

import pytest
import sqlalchemy as sa

import leakguard
from tests.integrations.support import in_thread, laboratory, until, url_for

psycopg2 = pytest.importorskip("psycopg2")
from psycopg2 import connect as connect_by_name  # noqa: E402  # bound before leakguard is installed, as applications do
from psycopg2 import extensions, extras, pool  # noqa: E402
from psycopg2.pool import AbstractConnectionPool, PoolError, SimpleConnectionPool, ThreadedConnectionPool  # noqa: E402


def drop(dsn, **more):
    conn = psycopg2.connect(dsn, **more)  # LEAK
    conn.cursor().execute("SELECT 1")


def take_all(take, taken):
    while True:
        taken.append(take())


class TestDirect:
    def test_dropped(self, lab, dsn):
        """A connection that is garbage-collected open is reported, which psycopg2 itself never does."""
        drop(dsn)
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed, leak.pool, leak.site.function) == (True, False, None, "drop")
        assert (leak.hold.library, leak.hold.operation, leak.hold.pool) == ("psycopg2", "connect", None)
        assert "contextlib.closing(psycopg2.connect(" in leak.advice
        assert lab.counts() == (1, 0, 0, 1)

    def test_closed(self, lab, dsn):
        """Its clean twin."""
        conn = psycopg2.connect(dsn)
        conn.cursor().execute("SELECT 1")
        conn.close()
        del conn
        lab.nothing()
        assert lab.counts() == (1, 1, 0, 0)

    def test_with_does_not_close(self, lab, dsn):
        """`with psycopg2.connect()` commits and leaves the connection open."""

        def leak():
            with psycopg2.connect(dsn) as conn, conn.cursor() as cursor:  # LEAK
                cursor.execute("SELECT 1")

        leak()
        lab.collect()
        lab.only("dropped")

    def test_imported_by_name(self, lab, dsn):
        """A `connect` that was imported by name before leakguard was installed is watched like any other."""

        def leak():
            connect_by_name(dsn)  # LEAK

        leak()
        connect_by_name(dsn).close()
        lab.collect()
        lab.only("dropped")

    def test_in_a_cycle(self, lab, dsn):
        """A cycle whose finalizer closes the connection is in order, one without is reported after the collection."""

        class Session:
            def __init__(self, closes):
                self.conn = psycopg2.connect(dsn)  # LEAK
                self.closes, self.me = closes, self

            def __del__(self):
                if self.closes:
                    self.conn.close()

        Session(closes=True)
        lab.collect()
        assert lab.kinds == []
        Session(closes=False)
        lab.collect()
        lab.only("dropped")

    def test_orphaned(self, lab, dsn):
        """The thread that opened it has ended, and nobody has used it since."""
        kept = in_thread(lambda: psycopg2.connect(dsn))  # LEAK
        lab.advance(4)
        assert lab.kinds == []
        lab.advance(2)
        lab.only("orphaned")
        kept.close()

    @pytest.mark.parametrize("use", ["execute", "cursor of the other thread", "commit", "named cursor"])
    def test_used_by_another_thread(self, lab, dsn, use):
        """Whoever uses it becomes its owner, by whichever of its objects."""

        def open_it():
            conn = psycopg2.connect(dsn)
            cursor, named = conn.cursor(), conn.cursor("named")
            named.itersize = 1
            named.execute("SELECT generate_series(1, 100)")
            return conn, cursor, named

        conn, cursor, named = in_thread(open_it)
        for _ in range(10):
            lab.advance(4)
            match use:
                case "execute":
                    conn.cursor().execute("SELECT 1")
                case "cursor of the other thread":
                    cursor.execute("SELECT 1")
                case "commit":
                    conn.commit()
                case "named cursor":
                    next(named)
        assert lab.kinds == []
        assert leakguard.holds()[0].owner.thread == "MainThread"
        cursor = named = None
        conn.close()
        lab.nothing()

    def test_never_overdue(self, lab, dsn):
        """The age of a direct connection says nothing."""
        conn = psycopg2.connect(dsn)
        lab.advance(100_000)
        assert lab.kinds == []
        conn.close()

    def test_idle_in_transaction(self, lab, dsn):
        """An open transaction in which nothing runs; a commit in time makes it harmless."""
        conn = psycopg2.connect(dsn)  # LEAK
        for _ in range(3):
            conn.cursor().execute("SELECT 1")
            lab.advance(50)
            conn.commit()
        assert lab.kinds == []
        conn.cursor().execute("SELECT 1")
        lab.advance(61)
        assert lab.only("idle_in_transaction").hold.state == "in_transaction"
        conn.close()

    def test_what_is_told(self, lab, dsn):
        """Server, state, statements and the latest of them, without its values; nothing secret."""
        conn = psycopg2.connect(dsn)
        with conn.cursor() as cursor:
            cursor.execute("SELECT %s, 'hush'", ("secret",))
            cursor.executemany("SELECT %s", [("secret",), ("secret",)])
            cursor.execute(query="SELECT 3 -- by name")
        (hold,) = leakguard.holds()
        assert hold.server.backend_pid == conn.info.backend_pid
        assert (hold.server.port, hold.server.user) == (conn.info.port, conn.info.user)
        assert hold.server.client_port
        assert (hold.state, hold.statements) == ("in_transaction", 3)
        assert hold.last_statement.startswith("SELECT ?")
        with pytest.raises(psycopg2.errors.DivisionByZero), conn.cursor() as cursor:
            cursor.execute("SELECT 1/0")
        assert leakguard.holds()[0].state == "in_error"
        assert "secret" not in repr(leakguard.holds())
        assert "hush" not in repr(leakguard.holds())
        conn.close()

    def test_active(self, lab, dsn):
        """A statement that is running shows, also while libpq waits for it."""
        conn = psycopg2.connect(dsn)

        def sleep():
            with pytest.raises(psycopg2.errors.QueryCanceled):
                conn.cursor().execute("SELECT pg_sleep(60)")

        thread = threading.Thread(target=sleep)
        thread.start()
        until(lambda: leakguard.holds()[0].state == "active")
        while thread.is_alive():
            conn.cancel()
            thread.join(0.02)
        conn.close()

    def test_copy_keeps_no_file_alive(self, lab, dsn):
        """Of what is executed only texts are remembered: a file given to `copy_from()` is nobody's business."""
        import io

        file = io.StringIO("1\n")
        ref = weakref.ref(file)
        conn = psycopg2.connect(dsn)
        cursor = conn.cursor()
        cursor.execute("CREATE TEMP TABLE t (x int)")
        cursor.copy_from(file, "t")
        del file
        assert ref() is None
        assert leakguard.holds()[0].last_statement is None
        conn.close()

    def test_killed_by_the_server(self, lab, dsn, kill):
        """A connection that the server ended, and whose owner has noticed, is open no more."""
        conn = psycopg2.connect(dsn)
        kill(conn.info.backend_pid)
        with pytest.raises(psycopg2.OperationalError):
            conn.cursor().execute("SELECT 1")
        assert conn.closed == 2
        assert leakguard.holds() == []
        del conn
        lab.nothing()

    def test_asynchronous(self, lab, dsn):
        """An asynchronous connection is told of its server as soon as there is one."""
        conn = psycopg2.connect(dsn, async_=True)
        extras.wait_select(conn)
        (hold,) = leakguard.holds()
        assert hold.server.backend_pid == conn.info.backend_pid
        cursor = conn.cursor()
        cursor.execute("SELECT 1")
        extras.wait_select(conn)
        assert cursor.fetchone() == (1,)
        conn.close()
        lab.nothing()

    def test_refused(self, lab, postgres, dsn):
        """The server is full: the exception says who fills it, and connects again once there is room."""
        held = []
        try:
            with pytest.raises(psycopg2.OperationalError) as raised:
                take_all(lambda: psycopg2.connect(dsn), held)
        finally:
            count = len(held)
            for conn in held:
                conn.close()
            held.clear()
        (note,) = raised.value.__notes__
        assert f"{count} x held" in note
        assert "test_psycopg2.py" in note
        lab.runtime.beat()
        (refusal,) = lab.refusals
        assert refusal.cause in ("server", "reserved")
        assert (refusal.held, refusal.pool) == (count, None)

    def test_raise_from_the_next_connect(self, dsn):
        """With `on_leak="raise"` the next connect raises what was found, once."""
        with laboratory(on_leak="raise") as lab:
            drop(dsn)
            lab.collect()
            with pytest.raises(leakguard.ConnectionLeakError):
                psycopg2.connect(dsn)
            psycopg2.connect(dsn).close()

    def test_opened_before(self, dsn):
        """What was open before leakguard was installed is nobody's leak."""
        conn = psycopg2.connect(dsn)
        with laboratory() as lab:
            conn.cursor().execute("SELECT 1")
            conn.close()
            lab.nothing()

    def test_survives_leakguard(self, dsn):
        """A connection that outlives leakguard goes on working, unwatched."""
        with laboratory():
            conn = psycopg2.connect(dsn)
            cursor = conn.cursor()
        cursor.execute("SELECT 1")
        assert conn.cursor().connection is conn
        conn.commit()
        conn.close()


class LoudCursor(extensions.cursor):
    said: ClassVar[list[str]] = []

    def execute(self, query, vars=None):
        self.said.append(query)
        return super().execute(query, vars)


class PoliteConnection(extensions.connection):
    """A connection with manners."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.closes = 0

    def cursor(self, *args, **kwargs):
        kwargs.setdefault("cursor_factory", LoudCursor)
        return super().cursor(*args, **kwargs)

    def close(self):
        self.closes += 1
        super().close()


class OldFashionedConnection(extensions.connection):
    """One that calls its base class by name."""

    def close(self):
        extensions.connection.close(self)


class StubbornConnection(extensions.connection):
    """One whose close() does not close: it has a pool of its own."""

    def close(self):
        pass


class TestFactories:
    def test_types(self, lab, dsn):
        """What is handed out is a subclass that looks like what it stands for, and takes no attributes."""
        conn = psycopg2.connect(dsn)
        assert isinstance(conn, extensions.connection)
        assert repr(type(conn)) == repr(extensions.connection)
        assert type(conn).__doc__ == extensions.connection.__doc__
        assert not hasattr(conn, "__dict__")
        with pytest.raises(AttributeError):
            conn.colour = "red"
        cursor = conn.cursor()
        assert isinstance(cursor, extensions.cursor)
        assert repr(type(cursor)) == repr(extensions.cursor)
        assert type(cursor.execute).__name__ == "method"
        assert cursor.execute.__doc__ == extensions.cursor.execute.__doc__
        for function in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="cannot pickle"):
                function(conn)
        conn.close()

    @pytest.mark.parametrize("factory", [PoliteConnection, OldFashionedConnection, extras.RealDictConnection])
    def test_own_class(self, lab, dsn, factory):
        """The application's own class stays what it is: one subclass for all, released at close, reported if not."""
        conn, other = (psycopg2.connect(dsn, connection_factory=factory) for _ in range(2))
        assert type(conn) is type(other)
        assert isinstance(conn, factory)
        assert (type(conn).__name__, type(conn).__doc__) == (factory.__name__, factory.__doc__)
        conn.cursor().execute("SELECT 1")
        assert leakguard.holds()[0].statements == 1
        if factory is PoliteConnection:
            assert LoudCursor.said.pop() == "SELECT 1"
        for one in (conn, other):
            one.close()
            one.close()
        assert getattr(conn, "closes", 2) == 2
        del conn, other
        lab.nothing()
        drop(dsn, connection_factory=factory)
        lab.collect()
        lab.only("dropped")

    def test_close_that_does_not_close(self, lab, dsn):
        """A connection whose close() leaves it open is held on: it is what psycopg2 says that it is."""
        conn = psycopg2.connect(dsn, connection_factory=StubbornConnection)
        conn.close()
        assert len(leakguard.holds()) == 1
        extensions.connection.close(conn)

    def test_factory_that_is_a_function(self, lab, dsn):
        """A function makes what it likes: that stays unwatched."""
        conn = psycopg2.connect(dsn, connection_factory=lambda *args, **kwargs: PoliteConnection(*args, **kwargs))
        assert type(conn) is PoliteConnection
        assert leakguard.holds() == []
        conn.close()

    @pytest.mark.parametrize(
        ("factory", "row"),
        [
            (extras.DictCursor, extras.DictRow),
            (extras.RealDictCursor, extras.RealDictRow),
            (extras.NamedTupleCursor, tuple),
            (LoudCursor, tuple),
        ],
    )
    def test_cursor_factories(self, lab, dsn, factory, row):
        """Every cursor of psycopg2.extras, and one's own, by argument and as the connection's default, named or not."""
        conn = psycopg2.connect(dsn, cursor_factory=factory)
        assert conn.cursor_factory is factory
        cursors = [
            conn.cursor(),
            conn.cursor(cursor_factory=factory),
            conn.cursor("a"),
            conn.cursor(name="b", cursor_factory=factory),
            conn.cursor(None, factory),
        ]
        for cursor in cursors:
            assert isinstance(cursor, factory)
            cursor.execute("SELECT 1 AS one UNION ALL SELECT 2")
            assert isinstance(cursor.fetchone(), row)
            assert len(list(cursor)) == 1
        assert leakguard.holds()[0].statements == 5
        conn.close()

    def test_c_api(self, lab, dsn):
        """What checks for a real connection or cursor gets one."""
        conn = psycopg2.connect(dsn)
        extensions.register_type(extensions.UNICODE, conn)
        cursor = conn.cursor()
        extensions.register_type(extensions.UNICODE, cursor)
        assert extras.execute_values(cursor, "SELECT * FROM (VALUES %s) AS t", [(1,), (2,)], fetch=True) == [(1,), (2,)]
        assert extensions.quote_ident("x", conn) == '"x"'
        conn.close()

    def test_logging_connection(self, lab, dsn):
        """LoggingConnection logs each statement once."""
        import io

        log = io.StringIO()
        conn = psycopg2.connect(dsn, connection_factory=extras.LoggingConnection)
        conn.initialize(log)
        conn.cursor().execute("SELECT 'logged'")
        assert log.getvalue().count("logged") == 1
        conn.close()

    def test_replication_connection(self, lab, dsn):
        """A C type of its own below the connection class is no obstacle."""
        conn = psycopg2.connect(dsn, connection_factory=extras.LogicalReplicationConnection)
        assert isinstance(conn, extras.LogicalReplicationConnection)
        assert isinstance(conn.cursor(), extras.ReplicationCursor)
        assert len(leakguard.holds()) == 1
        conn.close()
        del conn
        lab.nothing()

    def test_ever_new_classes(self, lab, dsn):
        """A program that makes a class for each connection does not fill the memory with ours."""
        from leakguard.integrations import subclasses

        made = subclasses.Subclasses(extensions.connection, {})
        for _ in range(subclasses.KNOWN_LIMIT * 2):
            made.of(type("Own", (extensions.connection,), {}))
        assert len(made._known) <= subclasses.KNOWN_LIMIT


@pytest.fixture(params=[SimpleConnectionPool, ThreadedConnectionPool], ids=["simple", "threaded"])
def small(request, lab, dsn):
    """A pool of each class with room for two."""
    small = request.param(1, 2, dsn)
    yield small
    if not small.closed:
        small.closeall()


def forget(small):
    conn = small.getconn()  # LEAK
    conn.cursor().execute("SELECT 1")


class TestPools:
    def test_dropped(self, lab, small):
        """The pool itself keeps what nobody returns: that only the pool refers to it is the proof."""
        forget(small)
        lab.advance(1)
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed, leak.hold.library) == (True, False, "psycopg2_pool")
        assert leak.hold.pool == f"{type(small).__name__}-1"
        assert (leak.pool.capacity, leak.pool.created_at.function) == (2, "small")
        assert "Nobody but pool" in leak.reason
        lab.advance(1000)
        assert lab.kinds == ["dropped"]

    def test_clean(self, lab, small):
        """getconn and putconn, also with an exception in between, and whatever is done in the connection."""
        for _ in range(3):
            conn = small.getconn()
            try:
                with pytest.raises(psycopg2.errors.DivisionByZero):
                    conn.cursor().execute("SELECT 1/0")
            finally:
                small.putconn(conn)
        del conn
        assert lab.counts() == (3, 3, 0, 0)
        lab.nothing()

    @pytest.mark.parametrize("how", ["cursor", "attribute", "generator", "thread"])
    def test_still_referred_to(self, lab, small, how):
        """Whoever refers to a checkout, even by a cursor of it alone, can still give it back."""

        class Holder:
            pass

        kept = Holder()
        done = threading.Event()
        match how:
            case "cursor":
                kept.cursor = small.getconn().cursor()
            case "attribute":
                kept.conn = small.getconn()
            case "generator":

                def hold():
                    conn = small.getconn()
                    yield
                    small.putconn(conn)

                kept.generator = hold()
                next(kept.generator)
            case "thread":

                def work():
                    conn = small.getconn()
                    started.set()
                    done.wait()
                    small.putconn(conn)

                started = threading.Event()
                kept.thread = threading.Thread(target=work)
                kept.thread.start()
                started.wait()
        lab.collect()
        lab.advance(59)
        assert lab.kinds == []
        done.set()
        if how == "thread":
            kept.thread.join()

    def test_dropped_while_another_is_fine(self, lab, small):
        """Of two checkouts the forgotten one is found."""
        kept = small.getconn()
        in_thread(lambda: forget(small))
        lab.advance(1)
        lab.only("dropped")
        small.putconn(kept)

    def test_with_a_key(self, lab, small):
        """With a key of the application's anybody may ask for it again: nothing is proven, and it is one checkout."""

        def first():
            small.getconn("main").cursor().execute("SELECT 1")

        first()
        lab.collect()
        lab.advance(30)
        assert small.getconn(key="main") is small.getconn("main")
        assert lab.counts() == (1, 0, 1, 0)
        small.putconn(small.getconn("main"), "main")
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_overdue_and_recovered(self, lab, small):
        """A checkout that is held too long is a suspicion; its return is told with its total time."""
        conn = small.getconn()  # LEAK
        lab.advance(61)
        lab.only("overdue")
        small.putconn(conn)
        lab.advance(1)
        assert [event.held_for for event in lab.recovered] == [61.0]

    def test_orphaned(self, lab, small):
        """Its thread has ended, and somebody still refers to it."""
        kept = in_thread(small.getconn, name="gone")  # LEAK
        lab.advance(6)
        leak = lab.leaks[0]
        assert (leak.kind, leak.hold.owner.thread) == ("orphaned", "gone")
        small.putconn(kept)

    def test_lost_slot(self, lab, small):
        """`conn.close()` instead of `putconn()`: the pool counts it as in use for ever."""
        conn = small.getconn()  # LEAK
        conn.close()
        lab.advance(6)
        leak = lab.only("lost_slot")
        assert "putconn()" in leak.advice

    def test_closed_and_put_back(self, lab, small):
        """Its clean twin: put back, a closed connection is replaced."""
        conn = small.getconn()
        conn.close()
        small.putconn(conn)
        small.putconn(small.getconn())
        del conn
        lab.nothing()

    def test_put_with_close(self, lab, small):
        """putconn(close=True), and a pool that has more than it wants to keep, close the connection."""
        small.putconn(small.getconn(), close=True)
        one, two = in_thread(small.getconn), small.getconn()
        small.putconn(one)
        small.putconn(two)
        assert two.closed
        del one, two
        lab.nothing()

    def test_exhausted(self, lab, small):
        """The exception carries who holds the connections, and an event says so; nothing is left under way."""
        held = [in_thread(small.getconn, name=name) for name in ("a", "b")]  # LEAK
        with pytest.raises(PoolError, match="exhausted") as raised:
            small.getconn()
        assert "2 x held" in raised.value.__notes__[0]
        assert "2 of 2 connection(s) held" in raised.value.__notes__[0]
        lab.runtime.beat()
        (refusal,) = lab.refusals
        assert (refusal.cause, refusal.held, refusal.capacity) == ("pool", 2, 2)
        for conn in held:
            small.putconn(conn)
        record = lab.tracker.pool_of(small)
        assert (record.pending(), record.connecting()) == (0, 0)

    def test_misuse_is_no_exhaustion(self, lab, small):
        """The same class of exception says that a pool is closed, or a connection somebody else's."""
        foreign = psycopg2.connect(small._args[0])
        with pytest.raises(PoolError):
            small.putconn(foreign)
        assert lab.counts() == (1, 0, 1, 0)
        foreign.close()
        small.closeall()
        with pytest.raises(PoolError) as raised:
            small.getconn()
        assert not hasattr(raised.value, "__notes__")
        with pytest.raises(PoolError):
            small.closeall()
        del foreign
        lab.nothing()

    def test_nested(self, lab, small):
        """To acquire while holding one of the same pool is told of, before it fails."""
        one = small.getconn()
        two = small.getconn()
        lab.runtime.beat()
        assert lab.kinds == ["nested_acquire"]
        assert "deadlock" not in lab.leaks[0].advice  # this pool does not wait
        small.putconn(two)
        small.putconn(one)

    def test_put_that_fails(self, lab, small, kill):
        """The server ended the session: psycopg2's rollback raises, the pool keeps the slot, so the hold goes on."""
        conn = small.getconn()
        conn.cursor().execute("SELECT 1")
        kill(conn.info.backend_pid)
        with pytest.raises(psycopg2.Error):
            small.putconn(conn)
        assert lab.counts() == (1, 0, 1, 0)
        small.putconn(conn)
        assert lab.counts() == (1, 1, 0, 0)

    def test_closeall(self, lab, small):
        """It closes what is out, too: whoever still had it has leaked nothing, what was forgotten before has leaked."""
        kept = small.getconn()
        in_thread(lambda: forget(small))
        small.closeall()
        lab.runtime.beat()
        leak = lab.only("dropped")
        assert "Nobody but pool" in leak.reason
        assert lab.counts() == (2, 1, 0, 1)
        del kept
        lab.advance(1000)
        assert lab.kinds == ["dropped"]

    def test_never_closed(self, lab, dsn):
        """A pool that is dropped with connections open is told of, at the line that made it."""

        def leak():
            made = SimpleConnectionPool(2, 2, dsn)  # LEAK
            made.putconn(made.getconn())

        leak()
        lab.collect()
        leak = lab.only("unclosed_pool")
        assert leak.pool.name == "SimpleConnectionPool-1"
        assert "closeall()" in leak.advice

    def test_that_cannot_be_made(self, lab, dsn):
        """A pool whose constructor fails half-way is nobody's leak: nobody ever had it."""
        seen = []

        class Failing(SimpleConnectionPool):
            def _connect(self, key=None):
                if seen:
                    raise psycopg2.OperationalError("no more")
                seen.append(super()._connect(key))

        with pytest.raises(psycopg2.OperationalError):
            Failing(3, 3, dsn)
        seen.clear()
        lab.nothing()

    def test_full_server(self, lab, dsn):
        """A pool that cannot connect for want of a slot says who fills the server."""
        held = []
        small = SimpleConnectionPool(0, 100, dsn)
        try:
            with pytest.raises(psycopg2.OperationalError) as raised:
                take_all(small.getconn, held)
        finally:
            small.closeall()
        lab.runtime.beat()
        (refusal,) = lab.refusals
        assert refusal.cause in ("server", "reserved")
        assert (refusal.pool, refusal.held) == ("SimpleConnectionPool-1", len(held))
        assert len(raised.value.__notes__) == 1

    def test_own_subclasses(self, dsn):
        """A pool class that has the methods under names of its own, made before leakguard or after, is watched."""

        class Before(AbstractConnectionPool):
            take = AbstractConnectionPool._getconn
            give = AbstractConnectionPool._putconn
            closeall = AbstractConnectionPool._closeall

        taken = vars(Before)["take"]
        with laboratory() as lab:

            class After(AbstractConnectionPool):
                take = AbstractConnectionPool._getconn
                give = AbstractConnectionPool._putconn
                closeall = AbstractConnectionPool._closeall

            for cls in (Before, After):
                own = cls(1, 1, dsn)
                conn = own.take()
                assert [hold.pool for hold in leakguard.holds()] == [f"{cls.__name__}-1"]
                own.give(conn)
                del conn
                own.closeall()
            lab.nothing()
            assert lab.counts() == (2, 2, 0, 0)
        assert vars(Before)["take"] is taken

    def test_older_than_leakguard(self, dsn):
        """A pool with connections out before leakguard was installed: what is acquired from now on is watched."""
        old = ThreadedConnectionPool(1, 3, dsn)
        out = old.getconn()
        with laboratory() as lab:
            old.putconn(old.getconn())
            forget(old)
            lab.advance(1)
            lab.only("dropped")
            old.putconn(out)
        old.closeall()

    def test_watch_one(self, lab, dsn):
        """watch(pool) judges that pool by its own settings."""
        watched, other = (ThreadedConnectionPool(1, 1, dsn) for _ in range(2))
        events = []
        with leakguard.watch(watched, threshold=5.0, on_leak=events.append):
            one, two = watched.getconn(), other.getconn()
            lab.advance(6)
            assert [event.kind for event in events] == ["overdue"]
            assert lab.kinds == []
            watched.putconn(one)
            other.putconn(two)
        watched.closeall()
        other.closeall()

    def test_raise_from_the_next_getconn(self, dsn):
        """With `on_leak="raise"` the next acquire raises, and the pool's lock is free again."""
        with laboratory(on_leak="raise") as lab:
            threaded = ThreadedConnectionPool(1, 3, dsn)
            forget(threaded)
            lab.advance(1)
            with pytest.raises(leakguard.ConnectionLeakError):
                threaded.getconn()
            threaded.putconn(threaded.getconn())
            threaded.closeall()

    def test_nothing_is_kept_alive(self, lab, dsn):
        """Pools and connections die as they would without leakguard."""
        made = ThreadedConnectionPool(1, 2, dsn)
        conn = made.getconn("key")
        refs = weakref.ref(made), weakref.ref(conn)
        made.closeall()
        del made, conn
        gc.collect()
        assert [ref() for ref in refs] == [None, None]
        lab.collect()
        assert lab.tracker.pools == {}
        assert lab.tracker.wires == {}


@pytest.fixture
def engine(lab, dsn):
    """An engine over psycopg2."""
    engine = sa.create_engine(url_for(dsn, "psycopg2"), pool_size=2, max_overflow=0, pool_timeout=0.01)
    yield engine
    engine.dispose()


class TestBelowSQLAlchemy:
    def test_one_hold(self, lab, engine):
        """The connection is the pool's: only the checkout is a hold, and each statement is counted once."""
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
            conn.execute(sa.text("SELECT 'hush'"))
            (hold,) = leakguard.holds()
            assert (hold.library, hold.statements, hold.state) == ("sqlalchemy", 2, "in_transaction")
            assert hold.last_statement == "SELECT ?"
            conn.connection.cursor().execute("SELECT 3")  # past SQLAlchemy
            assert leakguard.holds()[0].statements == 3
        # What the driver tells of its statements need not be asked of SQLAlchemy.
        assert not sa.Engine.dispatch.before_cursor_execute._clslevel.get(sa.Engine)
        assert lab.counts() == (1, 1, 0, 0)
        engine.dispose()
        lab.nothing()

    def test_dropped(self, lab, engine):
        """A dropped checkout is SQLAlchemy's, and reported once."""

        def leak():
            engine.connect().execute(sa.text("SELECT 1"))  # LEAK

        leak()
        lab.collect()
        assert lab.only("dropped").hold.library == "sqlalchemy"

    def test_detached(self, lab, engine):
        """A detached connection that is dropped is reported, one that is closed is not."""
        with engine.connect() as conn:
            conn.detach()
        lab.collect()
        assert lab.kinds == []

        def leak():
            conn = engine.connect()  # LEAK
            conn.detach()
            return conn.connection.dbapi_connection

        raw = leak()
        lab.collect()
        assert lab.kinds == []
        del raw
        lab.collect()
        lab.only("dropped")

    def test_creator(self, lab, dsn):
        """A creator of the application's, and one that takes from a psycopg2 pool, is beneath SQLAlchemy's checkout."""

        def creator():
            conn = psycopg2.connect(dsn)
            assert leakguard.holds() == []
            return conn

        engine = sa.create_engine("postgresql+psycopg2://", creator=creator)
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
            assert [hold.library for hold in leakguard.holds()] == ["sqlalchemy"]
        engine.dispose()
        inner = pool.ThreadedConnectionPool(1, 2, dsn)
        engine = sa.create_engine("postgresql+psycopg2://", creator=inner.getconn, poolclass=sa.NullPool)
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
            assert [hold.library for hold in leakguard.holds()] == ["sqlalchemy"]
            raw = conn.connection.driver_connection
            conn.detach()
        inner.putconn(raw)
        inner.closeall()
        del raw, conn
        lab.collect()
        assert set(lab.kinds) <= {"lost_slot"}

    def test_used_by_another_thread(self, lab, engine):
        """A checkout that is handed on is its user's, also past SQLAlchemy."""
        conn = in_thread(engine.connect)
        cursor = conn.connection.cursor()
        for _ in range(10):
            lab.advance(4)
            cursor.execute("SELECT 1")
        assert lab.kinds == []
        conn.close()
