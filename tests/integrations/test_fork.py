"""Forks: a child forgets its parent's holds, watches its own, and nothing inherited is locked or judged there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.slow

PREAMBLE = """
import gc, json, multiprocessing, os, sys, threading, time, warnings
import psycopg
from psycopg_pool import ConnectionPool
import leakguard

warnings.simplefilter("ignore")
DSN = os.environ["LAB_DSN"]


def in_child(function):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = function() or 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def say(**facts):
    print(json.dumps(facts), flush=True)
"""


@pytest.fixture
def program(dsn):
    """Runs a program of its own, because a test runner is no place to fork in; what it said, line by line."""

    def run(source, **environment):
        env = {**os.environ, "LAB_DSN": dsn, **environment}
        text = PREAMBLE + textwrap.dedent(source)
        done = subprocess.run([sys.executable, "-c", text], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_child_forgets(program):
    """The parent's connections are neither held nor judged in the child, and go on being the parent's."""
    said = program(
        """
        with leakguard.install(owner_grace=0.01, on_leak=lambda event: None) as guard:
            conn = psycopg.connect(DSN)
            pool = ConnectionPool(DSN, min_size=1, max_size=1, open=True)
            out = pool.getconn()

            def child():
                global conn, out
                assert leakguard.holds() == []
                assert leakguard.check() == []
                summary = guard.summary()
                say(child=[summary.acquired, summary.released, summary.held, summary.leaked])
                del out
                assert leakguard.check() == []

            in_child(child)
            conn.execute("SELECT 1")
            conn.close()
            pool.putconn(out)
            del out
            pool.close()
            summary = guard.summary()
            say(parent=[summary.acquired, summary.released, summary.held, summary.leaked])
            assert leakguard.check() == []
        """
    )
    assert said == [{"child": [0, 0, 0, 0]}, {"parent": [2, 2, 0, 0]}]


def test_child_finds_its_own(program):
    """The child has a watchdog of its own, and finds what is leaked there, once."""
    said = program(
        """
        kinds = []
        with leakguard.install(on_leak=lambda event: kinds.append((event.event, os.getpid()))) as guard:
            psycopg.connect(DSN).close()

            def child():
                def leak():
                    psycopg.connect(DSN)
                leak()
                deadline = time.monotonic() + 5
                while not kinds and time.monotonic() < deadline:
                    time.sleep(0.01)
                watchdogs = [t for t in threading.enumerate() if t.name == "leakguard-watchdog"]
                say(kinds=[kind for kind, pid in kinds], mine=kinds[0][1] == os.getpid(), watchdogs=len(watchdogs))

            in_child(child)
            assert leakguard.check() == []
        """
    )
    assert said == [{"kinds": ["leak"], "mine": True, "watchdogs": 1}]


def test_fork_with_locks_held(program):
    """A child that is forked while other threads judge, acquire and install is not stuck on anybody's lock."""
    said = program(
        """
        from leakguard import runtime
        with leakguard.install(on_leak=lambda event: None):
            current = runtime.current()
            with current.rounds._lock, current._admin, current._watchdog._lock:
                def child():
                    psycopg.connect(DSN).close()
                    assert leakguard.check() == []
                    leakguard.install(threshold=3.0)
                    say(ok=True)
                in_child(child)
        """
    )
    assert said == [{"ok": True}]


def test_inherited_return_changes_nothing(program):
    """A child that gives back what it inherited changes no count of its own."""
    said = program(
        """
        with leakguard.install(on_leak=lambda event: None) as guard:
            pool = ConnectionPool(DSN, min_size=1, max_size=2, open=True)
            out = pool.getconn()

            def child():
                from leakguard import runtime
                tracker = runtime.current().tracker
                record = tracker.pool_of(pool)
                pool.putconn(out)
                summary = guard.summary()
                say(known=record is not None, counts=[summary.acquired, summary.released, summary.held, summary.leaked])

            in_child(child)
            pool.putconn(out)
            pool.close()
        """
    )
    assert said == [{"known": True, "counts": [0, 0, 0, 0]}]


def test_nesting_in_the_child(program):
    """What an inherited pool is like is known in the child: one that nests by design gets no advice there."""
    said = program(
        """
        import sqlalchemy as sa
        with leakguard.install(on_leak=lambda event: None):
            engine = sa.create_engine(DSN.replace("://", "+psycopg://", 1), poolclass=sa.pool.SingletonThreadPool)

            def child():
                kinds = []
                leakguard.install(on_leak=lambda event: kinds.append(event.kind))
                with engine.connect(), engine.connect():
                    pass
                leakguard.check()
                say(kinds=kinds)

            in_child(child)
        """
    )
    assert said == [{"kinds": []}]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(program, method, tmp_path):
    """A child of multiprocessing under `leakguard run` writes its own leaks and its own summary."""
    report = tmp_path / "report.jsonl"
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import multiprocessing, os, psycopg, warnings

            def leak():
                psycopg.connect(os.environ["LAB_DSN"])  # LEAK

            def work():
                warnings.simplefilter("ignore")
                leak()

            if __name__ == "__main__":
                context = multiprocessing.get_context({method!r})
                process = context.Process(target=work)
                process.start()
                process.join()
                assert process.exitcode == 0
            """
        )
    )
    program(
        f"""
        import subprocess
        subprocess.run(
            [sys.executable, "-m", "leakguard", "run", "--quiet", "--report", {str(report)!r}, "--",
             sys.executable, {str(script)!r}],
            check=True,
        )
        """
    )
    events = [json.loads(line) for line in report.read_text().splitlines()]
    leaks = [event for event in events if event["event"] == "leak"]
    assert [(leak["kind"], leak["site"]["function"]) for leak in leaks] == [("dropped", "leak")]
    summaries = {event["pid"]: event for event in events if event["event"] == "summary"}
    assert summaries[leaks[0]["hold"]["owner"]["pid"]]["leaks"] == {"dropped": 1}
    assert all(event["internal_errors"] == 0 for event in summaries.values())


def test_other_drivers(program):
    """What a child inherits of psycopg2 and sqlite3 it may use, close and drop: no count changes anywhere."""
    said = program(
        """
        import psycopg2, psycopg2.pool, sqlite3
        with leakguard.install(owner_grace=0.01, on_leak=lambda event: None) as guard:
            conn, other = psycopg2.connect(DSN), sqlite3.connect(":memory:")
            pool = psycopg2.pool.ThreadedConnectionPool(1, 2, DSN)
            out = pool.getconn()

            def child():
                global conn, other, out
                other.execute("SELECT 1")
                other.close()
                del conn, out
                def leak():
                    sqlite3.connect(":memory:")
                leak()
                found = [leak.kind for leak in leakguard.check()]
                summary = guard.summary()
                say(child=[found, summary.acquired, summary.released, summary.held, summary.leaked])

            in_child(child)
            conn.cursor().execute("SELECT 1")
            conn.close()
            other.close()
            pool.putconn(out)
            pool.closeall()
            say(parent=[leak.kind for leak in leakguard.check()], errors=guard.summary().internal_errors)
        """
    )
    assert said == [{"child": [["dropped"], 1, 0, 0, 1]}, {"parent": [], "errors": 0}]
