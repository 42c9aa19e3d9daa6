"""SQLAlchemy 2.x, sync: every pool class, ORM sessions, and all the ways in which a checkout ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool

import leakguard
from tests.integrations.support import in_thread, laboratory, until, url_for

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

POOLS = [QueuePool, NullPool, StaticPool, SingletonThreadPool, AssertionPool]
pools = pytest.mark.parametrize("poolclass", POOLS, ids=lambda cls: cls.__name__)


@pytest.fixture
def make_engine(dsn):
    """Makes engines that are disposed of at the end."""
    engines = []

    def make(driver="psycopg", **options):
        if options.get("poolclass", QueuePool) is QueuePool:
            options = {"pool_size": 1, "max_overflow": 1, "pool_timeout": 5, **options}
        engine = sa.create_engine(url_for(dsn, driver), **options)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(lab, make_engine):
    """An engine with a queue pool of 1 + 1."""
    return make_engine()


def seen_of(lab):
    """The integration's own state: its listeners are bound methods of it."""
    from sqlalchemy.pool import Pool

    handlers = list(Pool.dispatch.checkin._clslevel[Pool])
    return next(fn.__self__ for fn in handlers if type(fn.__self__).__name__ == "_Seen")


class TestEveryPool:
    @pools
    def test_dropped(self, lab, make_engine, poolclass):
        """A checkout that is garbage-collected is reported, and that the pool healed itself, which it never says."""
        engine = make_engine(poolclass=poolclass)

        def leak():
            conn = engine.connect()  # LEAK
            conn.execute(sa.text("SELECT 1"))

        leak()
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.certain, leak.healed, leak.hold.library, leak.hold.operation) == (
            True,
            True,
            "sqlalchemy",
            "connect",
        )
        assert leak.pool.name.startswith(poolclass.__name__)
        assert lab.counts() == (1, 0, 0, 1)

    @pools
    def test_clean(self, lab, make_engine, poolclass):
        """close(), `with`, begin(), raw_connection(), exceptions: nothing to say, and every acquire is counted."""
        engine = make_engine(poolclass=poolclass)
        conn = engine.connect()
        conn.close()
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
        with engine.begin() as conn:
            conn.execute(sa.text("SELECT 1"))
        with pytest.raises(sa.exc.DBAPIError), engine.begin() as conn:
            conn.execute(sa.text("SELECT 1/0"))
        raw = engine.raw_connection()
        raw.cursor().execute("SELECT 1")
        raw.close()
        del conn, raw
        assert lab.counts() == (5, 5, 0, 0)
        lab.nothing()

    @pools
    def test_overdue(self, lab, make_engine, poolclass):
        """Held beyond the threshold: a suspicion, and a recovery when it is closed."""
        engine = make_engine(poolclass=poolclass)
        conn = engine.connect()  # LEAK
        lab.advance(61)
        lab.only("overdue")
        conn.close()
        lab.runtime.beat()
        assert [event.kind for event in lab.recovered] == ["overdue"]

    @pools
    def test_direct_connections_are_the_pools(self, lab, make_engine, poolclass):
        """The server connection below is the pool's: open for hours after the checkout, it is no hold."""
        engine = make_engine(poolclass=poolclass)
        in_thread(lambda: engine.connect().close())
        lab.advance(5000)
        assert leakguard.holds() == []
        assert lab.kinds == []


class TestQueuePool:
    def test_idle_in_transaction(self, lab, engine):
        """A connection in an open transaction: measured since its last statement."""
        conn = engine.connect()  # LEAK
        conn.execute(sa.text("SELECT 'literal', :x"), {"x": "parameter"})
        lab.advance(30)
        conn.execute(sa.text("SELECT 'literal', :x"), {"x": "parameter"})
        lab.advance(40)
        assert lab.kinds == ["overdue"]
        lab.advance(21)
        assert lab.kinds == ["overdue", "idle_in_transaction"]
        hold = lab.leaks[1].hold
        assert hold.statements == 2
        assert "literal" not in hold.last_statement
        assert "parameter" not in hold.last_statement
        conn.close()

    def test_orphaned_and_handed_over(self, lab, engine):
        """A checkout outlives its thread; one that another thread uses does not."""
        used = in_thread(engine.connect)
        kept = in_thread(lambda: engine.connect(), "worker-3")  # LEAK
        lab.advance(3)
        used.execute(sa.text("SELECT 1"))
        lab.advance(4)
        assert lab.only("orphaned").hold.owner.thread == "worker-3"
        used.close()
        kept.close()
        assert lab.counts() == (2, 2, 0, 0)

    def test_nested(self, lab, engine):
        """A second checkout by the same thread is advice; in another thread, or from another engine, it is none."""
        with engine.connect():
            in_thread(lambda: engine.connect().close())
            lab.runtime.beat()
            assert lab.kinds == []
            engine.connect().close()  # LEAK
        lab.runtime.beat()
        lab.only("nested_acquire")

    def test_two_engines_are_not_nested(self, lab, make_engine):
        """The same pool means the same object."""
        one, other = make_engine(), make_engine()
        with one.connect(), other.connect():
            pass
        with one.connect():
            pass
        lab.nothing()

    def test_server_and_state(self, lab, engine):
        """The server's end is known, and the state is the driver's."""
        with engine.connect() as conn:
            pid = conn.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            hold = leakguard.holds()[0]
            assert (hold.server.backend_pid, hold.state) == (pid, "in_transaction")
            conn.rollback()
            assert leakguard.holds()[0].state == "idle"

    def test_streaming(self, lab, engine):
        """A streamed result keeps its connection, and gives it back when that is closed."""
        conn = engine.connect()
        result = conn.execution_options(stream_results=True).execute(sa.text("SELECT generate_series(1, 1000)"))
        next(result)
        del conn
        lab.collect()
        assert lab.kinds == []
        result.connection.close()
        del result
        lab.nothing()

    def test_raw_connection_dropped(self, lab, engine):
        """A raw connection is a checkout too."""

        def leak():
            raw = engine.raw_connection()  # LEAK
            raw.cursor().execute("SELECT 1")

        leak()
        lab.collect()
        lab.only("dropped")

    def test_pool_connect(self, lab, make_engine, dsn):
        """A pool without an engine is watched alike."""
        pool = QueuePool(lambda: psycopg.connect(dsn), pool_size=1, max_overflow=0)

        def leak():
            pool.connect()  # LEAK

        leak()
        lab.collect()
        lab.only("dropped")
        pool.connect().close()
        pool.dispose()
        lab.advance(100)
        assert lab.kinds == ["dropped"]

    def test_allowed(self, lab, engine):
        """allow() takes a SQLAlchemy connection."""
        with engine.connect() as conn:
            leakguard.allow(conn, "the leader's lock")
            conn.execute(sa.text("SELECT 1"))
            lab.advance(1000)
        del conn
        lab.nothing()


class TestSessions:
    def test_dropped(self, lab, engine):
        """A session that is forgotten after a statement, at the line that made it check out."""

        def leak():
            session = Session(engine)
            session.execute(sa.text("SELECT 1"))  # LEAK

        leak()
        lab.collect()
        lab.only("dropped")

    def test_clean(self, lab, engine):
        """Closed, committed, by `with`, by sessionmaker().begin(), never used."""
        with Session(engine) as session:
            session.execute(sa.text("SELECT 1"))
        session = Session(engine)
        session.execute(sa.text("SELECT 1"))
        session.commit()
        with sessionmaker(engine).begin() as session:
            session.execute(sa.text("SELECT 1"))
        Session(engine)
        del session
        lab.nothing()

    def test_reacquired_after_commit(self, lab, engine):
        """A session that executes again after its commit holds again, from that line."""

        def leak():
            session = Session(engine)
            session.execute(sa.text("SELECT 1"))
            session.commit()
            session.execute(sa.text("SELECT 2"))  # LEAK

        leak()
        lab.collect()
        lab.only("dropped")
        assert lab.counts() == (2, 1, 0, 1)

    def test_scoped_in_ended_threads(self, lab, make_engine):
        """Threads that never call remove() leave their checkouts behind, three bugs' worth of one bug."""
        engine = make_engine(pool_size=3)
        registry = scoped_session(sessionmaker(engine))

        def work():
            registry.execute(sa.text("SELECT 1"))  # LEAK

        for _ in range(3):
            in_thread(work)
        lab.collect()
        lab.advance(20)
        assert set(lab.kinds) <= {"dropped", "orphaned"}
        assert sum(lab.summary().leaks.values()) == 3

    def test_scoped_removed(self, lab, engine):
        """Its clean twin."""
        registry = scoped_session(sessionmaker(engine))

        def work():
            registry.execute(sa.text("SELECT 1"))
            registry.remove()

        for _ in range(3):
            in_thread(work)
        lab.nothing()


class TestEnds:
    def test_invalidate(self, lab, engine):
        """invalidate() ends the hold; the next statement on the same Connection is a new one, with its own line."""
        conn = engine.connect()
        conn.invalidate()
        assert leakguard.holds() == []
        conn.execute(sa.text("SELECT 1"))  # LEAK
        lab.advance(61)
        assert set(lab.kinds) == {"overdue", "idle_in_transaction"}
        assert {leak.site.code for leak in lab.leaks} == {'conn.execute(sa.text("SELECT 1"))  # LEAK'}
        conn.close()
        assert lab.counts() == (2, 2, 0, 0)

    def test_invalidated_and_dropped(self, lab, engine):
        """After invalidate() there is nothing left to drop."""

        def clean():
            conn = engine.connect()
            conn.execute(sa.text("SELECT 1"))
            conn.invalidate()

        clean()
        lab.nothing()

    def test_soft_invalidate(self, lab, engine):
        """A soft invalidation is a hold until it is closed, and the next checkout replaces the connection."""
        conn = engine.connect()
        conn.connection._connection_record.invalidate(soft=True)
        assert len(leakguard.holds()) == 1
        conn.close()
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
        del conn
        assert lab.counts() == (2, 2, 0, 0)
        lab.nothing()

    def test_detached_and_dropped(self, lab, engine):
        """A detached connection that nobody closes is open for ever (sqlalchemy#13570)."""

        def leak():
            conn = engine.connect()  # LEAK
            conn.detach()
            conn.execute(sa.text("SELECT 1"))

        leak()
        lab.collect()
        leak = lab.only("dropped")
        assert leak.healed is False
        assert "detached" in leak.reason
        assert lab.counts() == (1, 0, 0, 1)

    def test_detached_and_closed(self, lab, engine):
        """Detached and closed: in order, and the pool has its slot."""
        conn = engine.connect()
        conn.detach()
        lab.advance(500)  # no checkout any more: its age says nothing
        assert len(leakguard.holds()) == 1
        conn.close()
        assert lab.counts() == (1, 1, 0, 0)
        del conn
        lab.nothing()

    def test_pre_ping(self, lab, make_engine, kill):
        """A pre-ping that fails replaces the connection inside one acquire."""
        engine = make_engine(pool_pre_ping=True)
        with engine.connect() as conn:
            pid = conn.connection.driver_connection.info.backend_pid
        kill(pid)
        with engine.connect() as conn:
            assert conn.connection.driver_connection.info.backend_pid != pid
            assert leakguard.holds()[0].server.backend_pid != pid
        del conn
        assert lab.counts() == (2, 2, 0, 0)
        lab.nothing()

    def test_recycle(self, lab, make_engine):
        """A recycled connection is replaced inside one acquire."""
        engine = make_engine(pool_recycle=0)
        for _ in range(3):
            engine.connect().close()
            engine.pool._recycle = -1 if engine.pool._recycle == 0 else 0
        assert lab.counts() == (3, 3, 0, 0)
        lab.nothing()

    def test_server_gone(self, lab, engine, kill):
        """A disconnect in a statement invalidates; the hold is over."""
        with engine.connect() as conn:
            kill(conn.connection.driver_connection.info.backend_pid)
            with pytest.raises(sa.exc.OperationalError):
                conn.execute(sa.text("SELECT 1"))
        del conn
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_dispose_while_out(self, lab, engine):
        """dispose() ends no hold: the old pool takes it back, or reports it dropped."""
        conn = engine.connect()
        engine.dispose()
        assert len(leakguard.holds()) == 1
        with engine.connect():
            lab.runtime.beat()
            assert lab.kinds == []  # the new pool is another object
        conn.close()
        assert lab.counts() == (2, 2, 0, 0)

        def leak():
            conn = engine.connect()  # LEAK
            engine.dispose()
            conn.execute(sa.text("SELECT 1"))

        leak()
        lab.collect()
        lab.only("dropped")

    def test_dispose_while_out_clean(self, lab, engine):
        """What comes home to a disposed pool goes with it: that pool was not forgotten unclosed."""

        def use():
            conn = engine.connect()
            engine.dispose()
            conn.execute(sa.text("SELECT 1"))
            conn.close()

        use()
        lab.nothing()

    def test_recreated_pool_keeps_its_name(self, lab, engine):
        """The pool after dispose() is the same pool to the reader: name, place of birth, guard."""
        before = lab.tracker.pool_of(engine.pool)
        engine.dispose()
        after = lab.tracker.pool_of(engine.pool)
        assert after is not before
        assert (after.name, after.created, after.watch) == (before.name, before.created, before.watch)

    def test_listener_raises_in_checkout(self, lab, engine):
        """A listener that raises in checkout fails the acquire: nothing is held, nothing lost."""

        def fail(*_):
            raise RuntimeError("no")

        event.listen(engine, "checkout", fail)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                engine.connect()
        event.remove(engine, "checkout", fail)
        with engine.connect():
            pass
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()

    def test_listener_raises_in_checkin(self, lab, engine):
        """A listener that raises in checkin makes SQLAlchemy lose the slot: the pool's accounts show it."""

        def fail(*_):
            raise RuntimeError("no")

        event.listen(engine, "checkin", fail)
        with pytest.raises(RuntimeError):
            engine.connect().close()
        event.remove(engine, "checkin", fail)
        gc.collect()
        assert engine.pool.checkedout() == 1
        lab.advance(8)
        leak = lab.only("lost_slot", mark=None)
        assert leak.hold is None
        assert leak.site is not None

    def test_lost_slot_after_a_timeout(self, lab, make_engine):
        """Acquires that failed leave no trace in the accounts that could hide a lost slot."""
        engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.001)
        lost = sa.pool.Pool.connect.__wrapped__(engine.pool)
        for _ in range(3):
            with pytest.raises(sa.exc.TimeoutError):
                engine.connect()
        lab.advance(10)
        assert lab.only("lost_slot", mark=None).hold is None
        lost.close()

    def test_disconnect_in_checkout(self, lab, engine):
        """A listener that says DisconnectionError has the connection replaced inside one acquire."""
        told = []

        def once(*_):
            if not told:
                told.append(1)
                raise sa.exc.DisconnectionError

        event.listen(engine, "checkout", once)
        with engine.connect():
            pass
        assert lab.counts() == (1, 1, 0, 0)
        lab.nothing()


class TestOtherPools:
    def test_singleton_nesting(self, lab, make_engine):
        """SingletonThreadPool nests by counting: one hold, ended by the last close, and no advice."""
        engine = make_engine(poolclass=SingletonThreadPool)
        outer = engine.connect()
        inner = engine.connect()
        assert len(leakguard.holds()) == 1
        inner.close()
        assert len(leakguard.holds()) == 1
        outer.close()
        assert leakguard.holds() == []
        del outer, inner
        acquired, released, held, leaked = lab.counts()
        assert (acquired - released, held, leaked) == (0, 0, 0)
        lab.nothing()

    def test_static_overlap(self, lab, make_engine):
        """StaticPool hands one connection to several at a time: closed in any order, nothing is left or leaked."""
        engine = make_engine(poolclass=StaticPool)
        one, two = engine.connect(), engine.connect()
        one.close()
        two.close()
        two, one = engine.connect(), engine.connect()
        one.close()
        two.close()
        del one, two
        lab.collect()
        assert leakguard.check() == []
        acquired, released, held, leaked = lab.counts()
        assert (acquired, held, leaked) == (released, 0, 0)
        lab.nothing()

    @pytest.mark.slow
    def test_null_pool_leaves_nothing(self, lab, make_engine):
        """A null pool's connections come and go, and the registers do not grow."""
        engine = make_engine(poolclass=NullPool)
        seen = seen_of(lab)
        with engine.connect():
            pass
        lab.collect()
        before = (len(seen.slots), len(lab.tracker.wires), len(lab.tracker.pools))
        for _ in range(50):
            with engine.connect():
                pass
        lab.collect()
        assert (len(seen.slots), len(lab.tracker.wires), len(lab.tracker.pools)) == before
        assert lab.tracker.pool_of(engine.pool).wires == {}
        assert lab.counts() == (51, 51, 0, 0)

    @pytest.mark.parametrize("poolclass", [QueuePool, NullPool], ids=["queue", "null"])
    def test_dropped_checkouts_leave_nothing(self, lab, make_engine, poolclass):
        """Nor do the registers grow with what is dropped, detached or invalidated."""
        engine = make_engine(poolclass=poolclass)
        seen = seen_of(lab)

        def one_round():
            engine.connect()
            gc.collect()
            conn = engine.connect()
            conn.detach()
            conn.close()
            conn = engine.connect()
            conn.invalidate()
            conn.close()

        one_round()
        lab.collect()
        before = (len(seen.slots), len(lab.tracker.wires), len(lab.tracker.pools))
        for _ in range(5):
            one_round()
        lab.collect()
        assert (len(seen.slots), len(lab.tracker.wires), len(lab.tracker.pools)) == before

    def test_engines_leave_nothing(self, lab, make_engine, dsn):
        """Engines come and go, disposed of: the registers are as before."""
        seen = seen_of(lab)

        def one_round():
            engine = sa.create_engine(url_for(dsn, "psycopg"))
            engine.connect().close()
            engine.dispose()

        lab.collect()
        before = (len(seen.slots), len(lab.tracker.wires), len(lab.tracker.pools))
        for _ in range(5):
            one_round()
        lab.collect()
        assert len(lab.tracker.pools) == before[2]
        assert len(lab.tracker.wires) == before[1]
        assert len(seen.slots) == before[0]


class TestOptions:
    def test_every_pool_option(self, lab, make_engine):
        """create_engine() accepts what it always accepts: it reads the options from the code of the pools' __init__."""
        engine = make_engine(
            pool_pre_ping=True,
            pool_recycle=3600,
            pool_reset_on_return="commit",
            pool_logging_name="orders",
            pool_use_lifo=True,
            pool_events=[(lambda *_: None, "checkout")],
            echo_pool=False,
        )
        assert engine.pool._pre_ping
        assert engine.pool._recycle == 3600
        with engine.connect():
            assert leakguard.holds()[0].pool == "orders"
        with pytest.raises(TypeError, match="pool_no_such_option"):
            make_engine(pool_no_such_option=1)


class TestUnclosed:
    def test_engine_per_request(self, lab, dsn):
        """An engine that is garbage-collected with idle connections was never disposed of."""

        def leak():
            engine = sa.create_engine(url_for(dsn, "psycopg"))  # LEAK
            with engine.connect() as conn:
                conn.execute(sa.text("SELECT 1"))

        leak()
        lab.collect()
        leak = lab.only("unclosed_pool")
        assert (leak.hold, leak.certain) == (None, True)
        assert "1 server connection" in leak.reason

    def test_disposed(self, lab, dsn):
        """Disposed of, never used, or without anything to keep (NullPool): clean."""

        def clean():
            engine = sa.create_engine(url_for(dsn, "psycopg"))
            engine.connect().close()
            engine.dispose()
            sa.create_engine(url_for(dsn, "psycopg"))
            sa.create_engine(url_for(dsn, "psycopg"), poolclass=NullPool).connect().close()

        clean()
        lab.nothing()

    def test_disposed_twice_and_reused(self, lab, dsn):
        """An engine that is used again after its dispose() has to be disposed of again."""

        def leak():
            engine = sa.create_engine(url_for(dsn, "psycopg"))  # LEAK
            engine.connect().close()
            engine.dispose()
            engine.connect().close()

        leak()
        lab.collect()
        lab.only("unclosed_pool")

    def test_dispose_without_close(self, lab, dsn):
        """dispose(close=False), in a forked child, leaves the parent's connections alone, and says nothing."""

        def clean():
            engine = sa.create_engine(url_for(dsn, "psycopg"))
            engine.connect().close()
            engine.dispose(close=False)
            engine.dispose()

        clean()
        lab.collect()
        assert lab.kinds == []


def test_older_engine(make_engine):
    """An engine that is older than leakguard is watched; what was out before is not ours."""
    engine = make_engine(pool_size=2)
    before = engine.connect()
    with laboratory() as lab:

        def leak():
            engine.connect()  # LEAK

        leak()
        lab.collect()
        lab.advance(30)
        leak = lab.only("dropped")
        assert leak.hold.server.backend_pid
        before.close()
        engine.connect().close()
        lab.advance(30)
        assert lab.kinds == ["dropped"]
        assert lab.counts() == (2, 1, 0, 1)


def test_watch_one_engine(lab, make_engine):
    """watch(engine) judges that engine by its own settings, across dispose(), and the others not."""
    watched, other = make_engine(), make_engine()
    events = []
    with leakguard.watch(watched, threshold=5.0, on_leak=events.append):
        watched.dispose()
        one, two = watched.connect(), other.connect()
        lab.advance(6)
        assert [event.kind for event in events] == ["overdue"]
        assert lab.kinds == []
        one.close()
        two.close()


@pytest.mark.parametrize("driver", ["psycopg2"])
def test_other_driver(lab, make_engine, driver):
    """A driver that is known through SQLAlchemy alone: server, state, statements, dropped and detached."""
    pytest.importorskip(driver)
    engine = make_engine(driver)
    with engine.connect() as conn:
        conn.execute(sa.text("SELECT 'secret'"))
        hold = leakguard.holds()[0]
        assert hold.state == "in_transaction"
        assert hold.server.backend_pid
        assert hold.statements == 1
        assert "secret" not in hold.last_statement

        def sleep():
            with pytest.raises(sa.exc.OperationalError):
                conn.execute(sa.text("SELECT pg_sleep(60)"))

        thread = threading.Thread(target=sleep)
        thread.start()
        until(lambda: leakguard.holds()[0].state == "active")
        while thread.is_alive():
            conn.connection.driver_connection.cancel()
            thread.join(0.02)
        assert leakguard.holds()[0].state == "in_error"

    def leak():
        engine.connect()  # LEAK

    leak()
    lab.collect()
    lab.only("dropped")


def test_raise_from_the_next_connect(make_engine):
    """With `on_leak="raise"` the next connect raises, never a close, and nothing is lost by it."""
    with laboratory(on_leak="raise") as lab:
        engine = make_engine()

        def leak():
            engine.connect()

        leak()
        lab.collect()
        with pytest.raises(leakguard.ConnectionLeakError):
            engine.connect()
        engine.connect().close()
        assert engine.pool.checkedout() == 0
        assert lab.counts() == (2, 1, 0, 1)


class TestAtExit:
    PROGRAM = """
        import atexit, gc, sys, weakref
        import leakguard
        import sqlalchemy as sa
        from sqlalchemy.orm import Session

        weakref.finalize(sys, int).detach()
        if sys.argv[2] == "after":  # as if there had been no finalizer before leakguard
            atexit.unregister(weakref.finalize._exitfunc)
            weakref.finalize._registered_with_atexit = False

        def tell(event):
            if isinstance(event, leakguard.Leak):
                print(event.kind, event.healed, flush=True)

        leakguard.install(on_leak=tell)
        engine = sa.create_engine(sys.argv[1])
        gc.disable()
    """

    def run(self, dsn, source, first_finalizer):
        """A program of its own, with its first finalizer before or after leakguard is installed: what it said."""
        text = textwrap.dedent(self.PROGRAM) + textwrap.dedent(source)
        command = [sys.executable, "-c", text, url_for(dsn, "psycopg"), first_finalizer]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        return done.stdout.splitlines()

    @pytest.mark.parametrize("first_finalizer", ["before", "after"])
    def test_a_cycle_is_collected_while_the_pool_can_still_take_it_back(self, dsn, first_finalizer):
        """SQLAlchemy 2.1's finalizers are used up by the exit, before leakguard judges."""
        said = self.run(
            dsn,
            """
            def forget():
                session = Session(engine)
                session.itself = session
                session.execute(sa.text("SELECT 1"))

            forget()
            """,
            first_finalizer,
        )
        assert said == ["dropped True"]

    @pytest.mark.parametrize("first_finalizer", ["before", "after"])
    def test_what_a_finalizer_closes_is_no_leak(self, dsn, first_finalizer):
        """The clean twin: an application may leave the closing to ``weakref.finalize``."""
        said = self.run(
            dsn,
            """
            class Store:
                def __init__(self):
                    self.connection = engine.connect()
                    self.itself = self
                    weakref.finalize(self, self.connection.close)

            store = Store()
            """,
            first_finalizer,
        )
        assert said == []
