"""Whatever hits leakguard in the midst of its work, the application is untouched; what was lost is counted."""

from __future__ import annotations

import pytest

from tests.servers.conftest import Run
from tests.servers.support import assert_silent, assert_sound

pytestmark = pytest.mark.slow

WORKS = """
import gc, logging, signal, sys
import psycopg, sqlalchemy, leakguard
from leakguard import runtime
from psycopg_pool import ConnectionPool, NullConnectionPool
from tests.servers.programs.injector import at_every_line

logging.getLogger("leakguard").addHandler(logging.NullHandler())
logging.getLogger("leakguard").propagate = False
libraries = runtime.current().libraries
gc.freeze()  # check() collects: without the modules, that takes a tenth of the time

def make_pools(*, endless=False):
    global pool, engine
    pool = (NullConnectionPool if endless else ConnectionPool)(DSN, max_size=0 if endless else 2, min_size=0, open=True)
    url = DSN.replace("://", "+psycopg://", 1)
    engine = sqlalchemy.create_engine(url, pool_size=1, max_overflow=-1 if endless else 1, pool_timeout=5)

def use_pool():
    with pool.connection() as connection:
        connection.execute("SELECT 1")

def use_engine():
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))

def use_direct():
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT 1")

def use_everything():
    use_pool(), use_engine(), use_direct()

def warm_up():
    for _ in range(4):  # the first holds of a line get whole stacks
        use_everything()

def finish():
    engine.dispose()
    pool.close()
"""


def test_a_signal_handler_that_acquires_at_every_line(run: Run) -> None:
    """It interrupts acquire, use, release, check and holds: nothing is lost, told twice, or stuck."""
    done = run(
        WORKS
        + """
def handler(*_):
    use_everything()

make_pools()
warm_up()
signal.signal(signal.SIGALRM, handler)
places = 0
for work in (use_pool, use_engine, use_direct, leakguard.check, leakguard.holds):
    for where, raised in at_every_line(work, lambda: signal.raise_signal(signal.SIGALRM)):
        assert raised is None, (where, raised)
        places += 1
assert leakguard.holds() == []
finish()
say(places)
"""
    )
    assert done.said[0][0] > 300
    assert_sound(done.events)
    assert {kind for kind, _ in done.kinds()} == {"nested_acquire"}  # the handler's, and rightly so


def test_a_signal_handler_that_checks_at_every_line(run: Run) -> None:
    """The judge is not entered twice by one thread, and what is found meanwhile is found once."""
    done = run(
        WORKS
        + """
leaks = places = 0

def leak():
    global leaks
    leaks += 1
    psycopg.connect(DSN)

def handler(*_):
    leakguard.holds()
    leakguard.check()

signal.signal(signal.SIGALRM, handler)
for where, raised in at_every_line(lambda: (leak(), leakguard.check()), lambda: signal.raise_signal(signal.SIGALRM)):
    assert raised is None, (where, raised)
    places += 1
say(places, leaks)
"""
    )
    ((places, leaks),) = done.said
    assert places > 300
    assert_sound(done.events)
    assert [event["leaks"] for event in done.events if event["event"] == "summary"] == [{"dropped": leaks}]


def test_a_signal_handler_that_raises_at_every_line(run: Run) -> None:
    """Its exception is the application's: a soft time limit arrives, whatever line of ours it interrupts.

    But where the libraries themselves keep it to themselves, and in a finalizer, out of which Python lets nothing.
    """
    done = run(
        WORKS
        + """
class SoftTimeLimit(Exception):
    pass

def handler(*_):
    raise SoftTimeLimit

make_pools(endless=True)
warm_up()
signal.signal(signal.SIGALRM, handler)
lost, kept = [], []
sys.unraisablehook = lambda ignored: kept.append("finalizer")

class Keeper(logging.Handler):
    def emit(self, record):
        kept.append(record.getMessage())

logging.getLogger("sqlalchemy.pool").addHandler(Keeper())
logging.getLogger("sqlalchemy.pool").propagate = False
for work in (use_pool, use_engine, use_direct):
    for where, raised in at_every_line(work, lambda: signal.raise_signal(signal.SIGALRM)):
        if type(raised) is not SoftTimeLimit:
            lost.append((where, repr(raised)))
        raised = None
        gc.collect()
assert len(lost) <= len(kept), (lost, kept)
finish()
"""
    )
    assert_sound(done.events)  # which has: no internal error


def test_memory_that_runs_out_at_every_line(run: Run) -> None:
    """No error of ours reaches the application; what it costs is counted, and none becomes a false alarm."""
    done = run(
        WORKS
        + """
def run_out():
    raise MemoryError

make_pools()
warm_up()
libraries.internal_errors = hit = 0
for work in (use_pool, use_engine, use_direct):
    for where, raised in at_every_line(work, run_out, wrappers=False):
        assert raised is None, (where, raised)
        libraries.forget_errors.__self__._errors.clear()  # else leakguard would switch the integration off
        hit += 1
assert leakguard.holds() == [], leakguard.holds()
before = libraries.internal_errors
use_everything()
assert leakguard.check() == []
assert libraries.internal_errors == before
finish()
say(hit, before)
"""
    )
    ((hit, counted),) = done.said
    assert hit > 150
    assert hit / 4 < counted <= hit  # the others were made good at once, on the slow path
    (summary,) = (event for event in done.events if event["event"] == "summary")
    assert summary["internal_errors"] == counted
    assert {event["kind"] for event in done.events if event["event"] == "leak"} <= {"nested_acquire"}


def test_an_integration_that_goes_on_failing_is_switched_off(run: Run) -> None:
    """The application goes on, unwatched, and the summary says how often it failed."""
    done = run(
        WORKS
        + """
def fail(*_):
    raise MemoryError

make_pools()
warm_up()
type(runtime.current().tracker.recorder).capture = fail
for _ in range(100):
    use_everything()
finish()
"""
    )
    (summary,) = done.events
    assert 20 <= summary["internal_errors"] < 100


def test_threads_that_die_with_what_they_hold(run: Run) -> None:
    """An exception that nobody catches ends the thread; the leak is found, and threading's own report is as it was."""
    source = """
        import gc, threading, time
        from psycopg_pool import ConnectionPool

        def work():
            connection = pool.getconn()
            connection.execute("SELECT 1")
            raise OverflowError("too heavy")

        with ConnectionPool(DSN, min_size=1, max_size=4) as pool:
            for number in range(3):
                thread = threading.Thread(target=work, name=f"worker-{number}")
                thread.start()
                thread.join()
            del thread
            gc.collect()
            time.sleep(1)
    """
    done, bare = run(source, "--owner-grace", "0.1"), run(source, bare=True)
    assert done.errors.count("OverflowError: too heavy") == bare.errors.count("OverflowError: too heavy") == 3
    assert_sound(done.events)
    assert set(done.kinds()) <= {("dropped", "work"), ("orphaned", "work")}
    (summary,) = (event for event in done.events if event["event"] == "summary")
    assert sum(summary["leaks"].values()) == 3


def test_a_loop_that_is_closed_with_tasks_pending(run: Run) -> None:
    """Whether such a task has ended cannot be told; once it is collected, what it held was dropped."""
    done = run(
        """
        import asyncio, gc, time, warnings
        import psycopg
        warnings.simplefilter("ignore")

        async def handle():
            connection = await psycopg.AsyncConnection.connect(DSN)
            await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        task = loop.create_task(handle())
        loop.run_until_complete(asyncio.sleep(0.3))
        loop.close()
        time.sleep(0.6)
        import leakguard
        assert leakguard.check() == []
        assert [hold.owner.task for hold in leakguard.holds()] == [task.get_name()]
        task._log_destroy_pending = False
        del task
        gc.collect()
        assert [leak.kind for leak in leakguard.check()] == ["dropped"]
        """,
        "--owner-grace",
        "0.1",
    )
    assert_sound(done.events)
    assert done.kinds() == [("dropped", "handle")]


def test_a_loop_that_ends_in_order_is_silent(run: Run) -> None:
    """The clean twin: ``asyncio.run()`` cancels what is pending, and that gives back."""
    done = run(
        """
        import asyncio
        import psycopg

        async def handle():
            async with await psycopg.AsyncConnection.connect(DSN) as connection:
                await asyncio.Event().wait()

        async def main():
            task = asyncio.create_task(handle())
            await asyncio.sleep(0.3)

        asyncio.run(main())
        """,
        "--owner-grace",
        "0.1",
    )
    assert_silent(done.events)


def test_daemon_threads_that_hold_at_shutdown(run: Run) -> None:
    """Checkouts are suspects, direct connections ordinary; nobody is waited for, and nothing is printed."""
    done = run(
        """
        import threading, time
        import psycopg
        from psycopg_pool import ConnectionPool

        pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)
        ready = threading.Barrier(4)

        def hold_a_checkout():
            with pool.connection() as connection:
                ready.wait()
                time.sleep(60)

        def hold_a_connection():
            with psycopg.connect(DSN) as connection:
                ready.wait()
                connection.execute("SELECT pg_sleep(60)")

        def be_busy():
            ready.wait()
            while True:
                with psycopg.connect(DSN):
                    pass

        for work in (hold_a_checkout, hold_a_connection, be_busy):
            threading.Thread(target=work, daemon=True).start()
        ready.wait()
        time.sleep(0.2)
        """
    )
    assert "leakguard" not in done.errors
    leaks = [event for event in done.events if event["event"] == "leak"]
    assert [(leak["kind"], leak["boundary"], leak["certain"]) for leak in leaks] == [("outstanding", "exit", False)]
    (summary,) = (event for event in done.events if event["event"] == "summary")
    assert summary["internal_errors"] == 0


@pytest.mark.parametrize("end", ["", "executor.shutdown()"], ids=["by the interpreter", "by the program"])
def test_the_connections_of_an_executors_threads_at_shutdown(run: Run, end: str) -> None:
    """They are kept for as long as their threads, which end because the process does: that is no leak."""
    done = run(
        f"""
        import threading
        import psycopg
        from concurrent.futures import ThreadPoolExecutor

        class Kept:
            def __init__(self):
                self.connection, self.itself = psycopg.connect(DSN, autocommit=True), self

        local = threading.local()

        def connect():
            local.kept = Kept()

        def work(_):
            local.kept.connection.execute("SELECT 1")

        executor = ThreadPoolExecutor(2, initializer=connect)
        list(executor.map(work, range(4)))
        {end}
        """
    )
    assert_silent(done.events)


def test_a_process_that_kills_itself_sums_up(run: Run) -> None:
    """By the signal that asked it to end, as uvicorn does once it has shut down in order."""
    done = run(
        """
        import signal
        import psycopg

        def leak():
            psycopg.connect(DSN)

        leak()
        signal.raise_signal(signal.SIGTERM)
        """,
        status=-15,
    )
    assert_sound(done.events)
    assert done.kinds() == [("dropped", "leak")]
    (summary,) = (event for event in done.events if event["event"] == "summary")
    assert summary["leaks"] == {"dropped": 1}


def test_a_signal_that_is_handled_ends_nothing(run: Run) -> None:
    """The clean twin: leakguard goes on, and so does the process."""
    done = run(
        """
        import signal
        import psycopg

        def leak():
            psycopg.connect(DSN)

        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.raise_signal(signal.SIGTERM)
        leak()
        """
    )
    assert done.kinds() == [("dropped", "leak")]
