"""gevent: a greenlet is an owner, the watchdog is a real thread, and nobody waits for anybody for ever.

Each program runs twice: leakguard is installed before ``monkey.patch_all()``, as ``leakguard run`` does it, or after.
"""

from __future__ import annotations

import textwrap

import pytest

from tests.servers.conftest import Done, Run
from tests.servers.support import assert_silent, assert_sound

pytestmark = pytest.mark.slow
pytest.importorskip("gevent")

AFTER = """
from gevent import monkey; monkey.patch_all()
import gevent, leakguard
leakguard.install(report=os.environ.get("REPORT", "report.jsonl"), owner_grace=0.1, on_leak=lambda event: None)
"""
BEFORE = """
from gevent import monkey; monkey.patch_all()
import gevent, leakguard
"""


@pytest.fixture(params=["installed before", "installed after"])
def run_patched(request: pytest.FixtureRequest, run: Run) -> Run:
    """Runs a program whose first lines patch the standard library."""

    def run_patched(source: str) -> Done:
        source = textwrap.dedent(source)
        if request.param == "installed before":
            return run(BEFORE + source, "--owner-grace", "0.1")
        return run(AFTER + source, bare=True)

    return run_patched


def test_a_greenlet_is_an_owner(run_patched: Run) -> None:
    """What it leaves behind is orphaned once it has ended, by its name, or by that of the thread that it stands for."""
    done = run_patched(
        """
        import psycopg, threading
        kept = []

        def handle():
            kept.append(psycopg.connect(DSN))

        def deliver():
            kept.append(psycopg.connect(DSN))

        greenlet = gevent.spawn(handle)
        greenlet.name = "handler"
        thread = threading.Thread(target=deliver, name="delivery")
        thread.start()
        greenlet.join(), thread.join()
        gevent.sleep(1)
        """
    )
    assert_sound(done.events)
    assert sorted(done.kinds()) == [("orphaned", "deliver"), ("orphaned", "handle")]
    owners = {leak["site"]["function"]: leak["hold"]["owner"] for leak in done.events if leak["event"] == "leak"}
    assert (owners["handle"]["thread"], owners["handle"]["task"]) == ("MainThread", "handler")
    assert (owners["deliver"]["thread"], owners["deliver"]["task"]) == ("delivery", None)
    reasons = {leak["site"]["function"]: leak["reason"] for leak in done.events if leak["event"] == "leak"}
    assert reasons["handle"].startswith('Its owner, greenlet "handler", has ended')
    assert reasons["deliver"].startswith('Its owner, thread "delivery", has ended')


def test_greenlets_that_live_and_give_back_are_silent(run_patched: Run) -> None:
    """The clean twin: also one that sleeps with its connection for longer than the grace, and one that lends it."""
    done = run_patched(
        """
        import psycopg

        def handle():
            with psycopg.connect(DSN) as connection:
                connection.execute("SELECT 1")
                gevent.sleep(0.5)
                connection.execute("SELECT 2")

        def lend():
            with psycopg.connect(DSN) as connection:
                gevent.spawn(connection.execute, "SELECT 3").join()
                gevent.sleep(0.5)

        gevent.joinall([gevent.spawn(handle), gevent.spawn(handle), gevent.spawn(lend)], raise_error=True)
        gevent.sleep(0.5)
        """
    )
    assert_silent(done.events)


def test_a_killed_greenlet_has_ended(run_patched: Run) -> None:
    """However it ended; the pool would wait for its slot for ever."""
    done = run_patched(
        """
        from psycopg_pool import ConnectionPool
        kept = []

        def handle():
            kept.append(pool.getconn())
            gevent.sleep(60)

        with ConnectionPool(DSN, min_size=1, max_size=2) as pool:
            greenlet = gevent.spawn(handle)
            gevent.sleep(0.3)
            greenlet.kill()
            gevent.sleep(1)
        """
    )
    assert_sound(done.events)
    assert done.kinds() == [("orphaned", "handle")]


def test_a_report_shows_where_a_greenlet_stands(run_patched: Run) -> None:
    """Its own stack, not that of the hub's thread, which belongs to whichever greenlet runs."""
    done = run_patched(
        """
        from psycopg_pool import ConnectionPool

        def handle():
            connection = pool.getconn()
            gevent.sleep(1)
            pool.putconn(connection)

        with ConnectionPool(DSN, min_size=1, max_size=2) as pool:
            leakguard.install(threshold=0.3)
            gevent.spawn(handle).join()
        """
    )
    (leak,) = (event for event in done.events if event["event"] == "leak")
    assert (leak["kind"], leak["now"]["owner"]) == ("overdue", "running")
    shown = [frame["function"] for frame in leak["now"]["stack"] if frame["app"]]
    assert shown == ["handle"]


def test_a_greenlet_without_a_frame_of_the_application(run_patched: Run) -> None:
    """It only fetched for somebody else: its end says nothing, and dropped it has no line, not that of the main one."""
    done = run_patched(
        """
        import gc
        from psycopg_pool import ConnectionPool

        with ConnectionPool(DSN, min_size=2, max_size=2) as pool:
            connection = gevent.spawn(pool.getconn).get()
            gevent.sleep(0.6)
            connection.execute("SELECT 1")
            pool.putconn(connection)
            gevent.spawn(pool.getconn).join()
            gc.collect()
            gevent.sleep(0.6)
        """
    )
    assert_sound(done.events)
    assert done.kinds() == [("dropped", None)]


def test_one_bug_has_one_name(run_patched: Run) -> None:
    """A greenlet's stack ends at the hub, however it is recorded: the first three whole, the later ones short."""
    done = run_patched(
        """
        import psycopg

        def handle():
            psycopg.connect(DSN)

        def start(count):
            for _ in range(count):
                gevent.spawn(handle).join()

        start(3)
        def elsewhere():
            start(3)
        elsewhere()
        gevent.sleep(0.5)
        """
    )
    assert len({event["fingerprint"] for event in done.events if event["event"] == "leak"}) == 1


def test_a_busy_hub_and_the_watchdog_share_their_locks(run_patched: Run) -> None:
    """Greenlets acquire, leak, check and log, the watchdog judges and tells, and nobody stands still."""
    done = run_patched(
        """
        import gc, logging, threading, time
        import psycopg, sqlalchemy
        from psycopg_pool import ConnectionPool

        logging.basicConfig(stream=open(os.devnull, "w"))
        leakguard.install(threshold=0.2, idle_in_transaction=0.2, owner_grace=0.05, on_leak="log")
        engine = sqlalchemy.create_engine(DSN.replace("://", "+psycopg://", 1), pool_size=3, max_overflow=1)
        pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)
        end = time.monotonic() + 3
        rounds = dict.fromkeys(("engine", "pool", "check"), 0)
        longest = 0.0

        def until_the_end(work):
            def loop():
                while time.monotonic() < end:
                    work()
            return loop

        def use_engine():
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
            rounds["engine"] += 1

        def use_pool():
            with pool.connection() as connection:
                connection.execute("SELECT 1")
            rounds["pool"] += 1

        def leak():
            connection = engine.connect()
            connection.execute(sqlalchemy.text("SELECT 1"))
            cycle = [connection]
            cycle.append(cycle)
            gevent.sleep(0.02)

        def check():
            leakguard.check()
            leakguard.holds()
            rounds["check"] += 1
            gevent.sleep(0.02)

        def log():
            logging.getLogger("leakguard").error("the application logs too")
            gevent.sleep(0.001)

        def collect():
            gc.collect(1)
            gevent.sleep(0.01)

        def beat():
            global longest
            before = time.monotonic()
            gevent.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

        works = [use_engine] * 6 + [use_pool] * 6 + [leak, check, check, log, collect, beat]
        greenlets = [gevent.spawn(until_the_end(work)) for work in works]
        native = gevent.get_hub().threadpool.spawn(until_the_end(check))
        thread = threading.Thread(target=until_the_end(use_pool))
        thread.start()
        gevent.joinall(greenlets, raise_error=True)
        native.get()
        thread.join()
        pool.close()
        engine.dispose()
        say(min(rounds.values()), longest)
        """
    )
    ((fewest, longest),) = done.said
    assert fewest > 1
    assert longest < 2.0  # a busy machine; whoever waits for a lock for ever, waits for longer
    assert_sound(done.events)
    assert {kind for kind, _ in done.kinds()} <= {"dropped", "orphaned", "overdue", "idle_in_transaction"}


def test_the_watchdog_was_there_before_the_patch(run: Run) -> None:
    """A connection that is opened first has started it, as a thread that `threading` knows: nothing is different."""
    done = run(
        """
        import psycopg, threading, leakguard
        psycopg.connect(DSN).close()
        assert "leakguard-watchdog" in [thread.name for thread in threading.enumerate()]
        from gevent import monkey; monkey.patch_all()
        import gevent

        def handle():
            psycopg.connect(DSN)

        gevent.spawn(handle).join()
        gevent.sleep(0.5)
        with leakguard.install():
            pass
        """
    )
    assert_sound(done.events)
    assert done.kinds() == [("dropped", "handle")]


def test_a_handler_in_the_hub_may_check(run_patched: Run) -> None:
    """Where gevent forbids to switch, which a sleep of its own would do."""
    done = run_patched(
        """
        import signal, psycopg
        found = []
        signal.signal(signal.SIGUSR1, lambda *_: found.append(leakguard.check()))
        psycopg.connect(DSN)
        gevent.get_hub().loop.run_callback(lambda: found.append(leakguard.check()))
        gevent.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR1)
        gevent.sleep(0.1)
        say(len(found))
        """
    )
    assert done.said == [[2]]
    assert_sound(done.events)


def test_a_child_of_a_patched_process(run_patched: Run) -> None:
    """It has a watchdog of its own, forgets its parent's holds, and its greenlets are owners."""
    done = run_patched(
        """
        import sys, psycopg
        kept = [psycopg.connect(DSN)]

        def handle():
            kept.append(psycopg.connect(DSN))

        pid = os.fork()
        if pid == 0:
            assert leakguard.holds() == []
            gevent.spawn(handle).join()
            gevent.sleep(1)
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        kept[0].close()
        say(pid)
        """
    )
    assert_sound(done.events)
    (leak,) = (event for event in done.events if event["event"] == "leak")
    assert (leak["kind"], leak["site"]["function"]) == ("orphaned", "handle")
    assert [leak["hold"]["owner"]["pid"]] == done.said[0]
