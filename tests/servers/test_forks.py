"""Forks at the worst of moments: each child watches itself, and tells its own leaks once, under its own process id."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.servers.conftest import Done, Run
from tests.servers.support import assert_sound

pytestmark = pytest.mark.slow

PROGRAM = """
import signal, sys, threading, time
import psycopg, leakguard
from leakguard import runtime
from psycopg_pool import ConnectionPool

def leak():
    psycopg.connect(DSN)

def fork(child):
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a child that is stuck is ended, and so fails the test
        child()
        sys.exit(0)
    return pid

def wait(*pids):
    for pid in pids:
        status = os.waitpid(pid, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0, status
"""


def leaks_by_process(done: Done) -> dict[int, Counter[str]]:
    """How many leaks of which kind each process has told in its summary."""
    return {event["pid"]: Counter(event["leaks"]) for event in done.events if event["event"] == "summary"}


def test_a_thread_forks_while_another_one_has_our_locks(run: Run) -> None:
    """No lock that was held by a thread of the parent's is waited for in the child."""
    done = run(
        PROGRAM
        + """
leakguard.install(on_leak=print, report="report.jsonl")
leak(), leakguard.check()
current = runtime.current()
(guard,) = current.guards
held, forked = threading.Event(), threading.Event()

def hold():
    outlets = list(guard.told_by())
    locks = [current.rounds._lock, current._admin, current._watchdog._lock, current._delivery._lock]
    locks += [outlet._token for outlet in outlets] + [outlet.report.__self__._lock() for outlet in outlets[1:2]]
    for lock in locks:
        lock.acquire()
    held.set()
    forked.wait()
    for lock in locks:
        lock.release()

def child():
    leak()
    assert len(leakguard.check()) == 1

pids = []
holder = threading.Thread(target=hold)
holder.start()
held.wait()
forker = threading.Thread(target=lambda: pids.append(fork(child)))
forker.start()
forker.join()
forked.set()
holder.join()
wait(*pids)
say(*pids)
""".replace("on_leak=print, ", ""),
    )
    assert_sound(done.events)
    (child,) = done.said[0]
    assert leaks_by_process(done)[child] == {"dropped": 1}
    pids = [event["hold"]["owner"]["pid"] for event in done.events if event["event"] == "leak"]
    assert sorted(pids) == sorted(leaks_by_process(done))


def test_a_fork_while_a_reporter_is_told(run: Run) -> None:
    """What waits for it is the parent's to tell; the child's own leaks are told there, once."""
    done = run(
        PROGRAM
        + """
inside, go_on = threading.Event(), threading.Event()

def reporter(event):
    if event.event == "leak":
        told.append((os.getpid(), event.hold.owner.pid))
        if os.getpid() == parent:
            inside.set()
            go_on.wait(20)

def child():
    told.clear()
    leak()
    assert len(leakguard.check()) == 1
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    say(*told)

told, parent = [], os.getpid()
leakguard.install(on_leak=reporter)
leak()
assert inside.wait(20)
leak()  # it waits behind the one that is told
pid = fork(child)
wait(pid)
go_on.set()
leakguard.check()
say(pid, parent, told)
"""
    )
    assert_sound(done.events)
    child_told, (child, parent, parent_told) = done.said
    assert child_told == [[child, child]]
    assert set(map(tuple, parent_told)) == {(parent, parent)}
    counts = leaks_by_process(done)
    assert (counts[child], counts[parent]) == ({"dropped": 1}, {"dropped": 2})


def test_many_forks_of_a_busy_process(run: Run) -> None:
    """While its threads acquire, release, leak and check; nothing is found twice, and nothing of the parent's."""
    done = run(
        PROGRAM
        + """
leakguard.install(owner_grace=0.05)
pool = ConnectionPool(DSN, min_size=2, max_size=4, open=True)
kept = pool.getconn()
over = threading.Event()

def be_busy():
    while not over.is_set():
        with pool.connection(), psycopg.connect(DSN):
            pass
        leakguard.holds()

def leak_and_check():
    while not over.is_set():
        leak()
        leakguard.check()

def child():
    assert all(hold.owner.pid == os.getpid() for hold in leakguard.holds())
    leak()
    assert [leak.kind for leak in leakguard.check()] == ["dropped"]
    assert leakguard.check() == []

threads = [threading.Thread(target=work) for work in (be_busy, be_busy, leak_and_check)]
for thread in threads:
    thread.start()
pids = []
for _ in range(12):
    pids.append(fork(child))
    time.sleep(0.01)
    wait(pids[-1])
over.set()
for thread in threads:
    thread.join()
pool.putconn(kept)
pool.close()
say(*pids)
"""
    )
    assert_sound(done.events)
    counts = leaks_by_process(done)
    assert len(counts) == 13
    assert [counts[pid] for pid in done.said[0]] == [{"dropped": 1}] * 12
    assert {kind for kind, _ in done.kinds()} == {"dropped"}


def test_a_child_without_leaks_is_silent(run: Run) -> None:
    """The clean twin: what it inherited is neither held nor leaked there, whatever becomes of the objects."""
    done = run(
        PROGRAM
        + """
import gc
leakguard.install(owner_grace=0.05)
pool = ConnectionPool(DSN, min_size=2, max_size=2, open=True)
kept = [pool.getconn(), psycopg.connect(DSN)]

def child():
    kept.clear()
    gc.collect()
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT 1")
        time.sleep(0.5)
    assert leakguard.check() == []

wait(fork(child), fork(child))
kept[0].execute("SELECT 1")
pool.putconn(kept[0])
kept[1].execute("SELECT 1")
kept[1].close()
pool.close()
"""
    )
    assert_sound(done.events)
    assert [event["event"] for event in done.events] == ["summary"] * 3
