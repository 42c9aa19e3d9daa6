"""The runtime and its guards: reports, settings, errors of our own, the process's end, and forks."""

from __future__ import annotations

import atexit
import gc
import itertools
import json
import logging
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leakguard
from leakguard import ConnectionLeakError, SettingsError, runtime
from leakguard.judging.judge import Outcome
from leakguard.libraries import ERRORS_UNTIL_OFF
from leakguard.model import Event, Leak
from leakguard.patching import Patches
from leakguard.register.signals import Signal
from leakguard.testing import FakeTime, Recorder, fake_time
from tests.core.support import Pool, connect, in_thread


@pytest.fixture
def time() -> Iterator[FakeTime]:
    """leakguard on a fake clock."""
    with fake_time() as time:
        yield time


@pytest.fixture
def recorder() -> Recorder:
    """Keeps the events."""
    return Recorder()


def drop(pool: Pool, times: int = 1) -> None:
    """Leak from one line, so many times."""
    for _ in range(times):
        pool.getconn()
    gc.collect()


# --------------------------------------------------------------------------------------------------------- reporting


def test_a_flood_is_folded_and_the_last_count_is_exact(time: FakeTime, recorder: Recorder) -> None:
    """The first at once, then one in ten seconds, the last at the end."""
    guard = leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker, size=None)
    drop(pool, 7)
    time.advance()
    assert [leak.count for leak in recorder.leaks] == [1]
    time.advance(9.5)
    assert [leak.count for leak in recorder.leaks] == [1]
    time.advance(0.5)
    assert [leak.count for leak in recorder.leaks] == [1, 7]
    drop(pool, 3)
    guard.uninstall()
    assert [leak.count for leak in recorder.leaks] == [1, 7, 10]
    (summary,) = recorder.summaries
    assert (summary.acquired, summary.released, summary.held, summary.leaked) == (10, 0, 0, 10)
    assert summary.leaks == {"dropped": 10}
    assert summary.internal_errors == 0


def test_a_clean_program_is_told_nothing_but_the_summary(time: FakeTime, recorder: Recorder) -> None:
    """The clean twin."""
    with leakguard.install(on_leak=recorder):
        pool = Pool(time.runtime.tracker)
        for _ in range(10):
            pool.putconn(pool.getconn())
        time.advance(100.0)
    assert [event.event for event in recorder.events] == ["summary"]
    assert recorder.summaries[0].leaks == {}


def test_reporters_are_called_with_no_lock_held(time: FakeTime) -> None:
    """One may ask leakguard anything, also from another thread."""
    answers: list[Any] = []

    def curious(event: Event) -> None:
        answers.append((in_thread(leakguard.holds), leakguard.check(), in_thread(time.runtime.rounds.work)))

    leakguard.install(on_leak=curious)
    drop(Pool(time.runtime.tracker))
    time.advance()
    assert len(answers) == 1
    assert answers[0][0] == []


def test_a_reporter_that_raises_is_switched_off_and_the_others_go_on(
    time: FakeTime, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once, with its traceback, and counted."""
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise RuntimeError("no network")

    leakguard.install(on_leak=[broken, recorder])
    pool, other = Pool(time.runtime.tracker), Pool(time.runtime.tracker, "other", library="sqlalchemy")
    drop(pool)
    time.advance()
    drop(other)
    time.advance()
    assert len(calls) == 1
    assert len(recorder.leaks) == 2
    assert time.runtime.internal_errors == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "switched off" in record.getMessage()
    assert "RuntimeError: no network" in record.getMessage()
    assert record.exc_info is None  # a traceback would keep the frames alive


def test_a_full_disk_is_tried_again(time: FakeTime, caplog: pytest.LogCaptureFixture) -> None:
    """An OSError passes; the reporter stays, and the error is logged once."""
    calls: list[Event] = []

    def full(event: Event) -> None:
        calls.append(event)
        raise OSError("no space left on device")

    leakguard.install(on_leak=full)
    for number in range(3):
        drop(Pool(time.runtime.tracker, library=f"lib{number}"))
        time.advance()
    assert len(calls) == 3
    assert time.runtime.internal_errors == 3
    assert len([record for record in caplog.records if "internal error" in record.getMessage()]) == 1


def test_a_reporter_is_an_object_or_a_callable(time: FakeTime, recorder: Recorder) -> None:
    """Or a list of both."""
    called: list[Event] = []
    leakguard.install(on_leak=[recorder, called.append])
    drop(Pool(time.runtime.tracker))
    time.advance()
    assert called == recorder.events
    assert len(called) == 1


def test_what_is_ignored_is_neither_told_nor_counted(time: FakeTime, recorder: Recorder) -> None:
    """By pool here; the patterns have tests of their own."""
    guard = leakguard.install(on_leak=recorder, ignore=["pool=legacy"])
    drop(Pool(time.runtime.tracker, "legacy"))
    drop(Pool(time.runtime.tracker, "main"))
    time.advance()
    assert [leak.pool.name for leak in recorder.leaks if leak.pool] == ["main"]
    assert len(guard.check()) == 1
    assert guard.counts == {"dropped": 1}


def test_two_guards_judge_each_their_own(time: FakeTime, recorder: Recorder) -> None:
    """A pool with a guard of its own has its settings and its reporters."""
    special = Recorder()
    leakguard.install(on_leak=recorder, threshold=60.0)
    pool = Pool(time.runtime.tracker)
    mine = Pool(time.runtime.tracker, "mine")
    guard = time.runtime.watch(lambda one: one is mine, {"on_leak": special, "threshold": 5.0})
    kept = [pool.getconn(), mine.getconn()]
    time.advance(5.0)
    assert (len(recorder.leaks), len(special.leaks)) == (0, 1)
    assert [hold.pool for hold in guard.holds()] == ["mine"]
    assert [hold.pool for hold in leakguard.holds()] == ["main", "mine"]
    guard.uninstall()
    time.advance(60.0)
    assert [leak.pool.name for leak in recorder.leaks if leak.pool] == ["main"]
    assert len(special.summaries) == 1
    assert len(kept) == 2


# ---------------------------------------------------------------------------------------------------- install again


def test_installing_again_applies_settings_to_the_same_guard(time: FakeTime, recorder: Recorder) -> None:
    """So an application that installs itself works under ``leakguard run``."""
    guard = leakguard.install(on_leak=recorder, threshold=60.0)
    kept = Pool(time.runtime.tracker).getconn()
    assert leakguard.install(threshold=5.0) is guard
    assert (guard.settings.threshold, guard.settings.on_leak) == (5.0, (recorder,))
    assert kept is not None
    other = Recorder()
    leakguard.install(on_leak=other)
    pool = Pool(time.runtime.tracker, "other")
    kept2 = pool.getconn()
    time.advance(5.0)
    assert recorder.leaks == []
    assert len(other.leaks) >= 1
    assert kept2 is not None


def test_a_lower_threshold_counts_for_what_is_held_already(time: FakeTime, recorder: Recorder) -> None:
    """Reported within a second of the new deadline, not at the old one."""
    guard = leakguard.install(on_leak=recorder, threshold=600.0, idle_in_transaction=None)
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    time.advance(10.0)
    guard.configure(threshold=20.0)
    time.advance(11.0)
    assert [leak.kind for leak in recorder.leaks] == ["overdue"]
    assert kept is not None


def test_a_higher_threshold_counts_for_what_is_held_already(time: FakeTime, recorder: Recorder) -> None:
    """Nothing is told at the old deadline, one thing at the new one."""
    guard = leakguard.install(on_leak=recorder, threshold=20.0, idle_in_transaction=None)
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    time.advance(10.0)
    guard.configure(threshold=100.0)
    time.advance(89.0)
    assert recorder.leaks == []
    time.advance(1.0)
    assert [leak.kind for leak in recorder.leaks] == ["overdue"]
    assert kept is not None


def test_a_bad_setting_changes_nothing(time: FakeTime, recorder: Recorder) -> None:
    """SettingsError, and the guard is as before."""
    guard = leakguard.install(on_leak=recorder, threshold=60.0)
    before = guard.settings
    with pytest.raises(SettingsError, match="threshold"):
        leakguard.install(threshold=-1.0, stacks="full")
    assert guard.settings is before


def test_a_bad_setting_installs_nothing(time: FakeTime) -> None:
    """And leaves no trace of an attempt."""
    before = list(sys.meta_path)
    with pytest.raises(SettingsError):
        leakguard.install(thresold=3)
    assert time.runtime.guards == []
    assert sys.meta_path == before


def test_disabled_patches_nothing(time: FakeTime) -> None:
    """Off means off, with a guard that answers all the same."""
    before = list(sys.meta_path)
    guard = leakguard.install(enabled=False)
    assert sys.meta_path == before
    kept = Pool(time.runtime.tracker).getconn()
    assert (guard.holds(), guard.check(), leakguard.holds()) == ([], [], [])
    guard.uninstall()
    assert kept is not None


def test_disabling_at_run_time_ends_the_guard(time: FakeTime, recorder: Recorder) -> None:
    """With its summary, and everything put back."""
    before = list(sys.meta_path)
    guard = leakguard.install(on_leak=recorder)
    guard.configure(enabled=False)
    assert time.runtime.guards == []
    assert sys.meta_path == before
    assert len(recorder.summaries) == 1


def test_the_recorder_of_stacks_serves_the_most_demanding_guard(time: FakeTime) -> None:
    """One recorder for all guards: all their packages, the most stack."""
    leakguard.install(on_leak=Recorder(), stacks="site", app_packages=["shop"])
    assert time.runtime.tracker.recorder.mode == "site"
    other = time.runtime.watch(lambda pool: False, {"on_leak": Recorder(), "stacks": "full", "app_packages": ["bank"]})
    assert time.runtime.tracker.recorder.mode == "full"
    assert time.runtime.tracker.recorder.rules.app_packages == ("shop", "bank")
    other.uninstall()
    assert time.runtime.tracker.recorder.mode == "site"


def test_a_pinned_guard_survives_the_applications_own_uninstall(time: FakeTime, recorder: Recorder) -> None:
    """``leakguard run`` goes on with its settings, after the application is done with its own."""
    companion: list[Event] = []
    guard = leakguard.install(on_leak=recorder, threshold=60.0)
    time.runtime.pin(companion.append)
    mine = Recorder()
    with leakguard.install(on_leak=mine, threshold=5.0) as same:
        assert same is guard
        assert guard.settings.threshold == 5.0
    assert time.runtime.guards == [guard]
    assert guard.settings.threshold == 60.0
    drop(Pool(time.runtime.tracker))
    time.advance()
    assert (len(recorder.leaks), len(mine.leaks)) == (1, 0)


def test_uninstall_is_idempotent_and_leaves_nothing(time: FakeTime, recorder: Recorder) -> None:
    """One summary, no hook on imports, an empty register."""
    before = list(sys.meta_path)
    guard = leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker)
    kept = [pool.getconn(), connect(time.runtime.tracker)]
    guard.uninstall()
    guard.uninstall()
    assert len(recorder.summaries) == 1
    assert (recorder.summaries[0].acquired, recorder.summaries[0].held) == (2, 2)
    assert sys.meta_path == before
    assert time.runtime.tracker.pools == {}
    assert time.runtime.tracker.holds() == []
    assert len(kept) == 2


# --------------------------------------------------------------------------------------------------- errors of our own


def test_an_internal_error_is_counted_each_time_and_logged_once(
    time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each place."""
    for _ in range(3):
        time.runtime.internal_error("psycopg.close", ValueError("x"))
    time.runtime.internal_error("psycopg.wait", ValueError("x"))
    assert time.runtime.internal_errors == 4
    said = [record.getMessage().split(";")[0] for record in caplog.records]
    assert said == [f"leakguard: internal error in psycopg.{name}" for name in ("close", "wait")]


def test_an_integration_that_keeps_failing_is_switched_off(
    time: FakeTime, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """At the twentieth error its hooks find nobody who watches, and that is said; not at the nineteenth."""
    leakguard.install(on_leak=recorder)
    time.runtime.libraries.installed.setdefault("psycopg_pool", Patches())  # as if it had been imported
    failing, fine = Pool(time.runtime.tracker), Pool(time.runtime.tracker, "fine", library="sqlalchemy")
    for _ in range(ERRORS_UNTIL_OFF - 1):
        time.runtime.internal_error("psycopg_pool.getconn", ValueError("x"))
    drop(failing)
    time.advance()
    assert len(recorder.leaks) == 1
    time.runtime.internal_error("psycopg_pool.getconn", ValueError("x"))
    assert "no longer watched" in caplog.text
    drop(failing, 3)
    drop(fine)
    time.advance()
    assert [leak.pool.name for leak in recorder.leaks if leak.pool] == ["main", "fine"]


def test_a_logging_handler_that_fails_does_not_reach_the_application(time: FakeTime) -> None:
    """Not even while an error of ours is being logged."""

    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("the log server is down")

    handler = Failing()
    logging.getLogger("leakguard").addHandler(handler)
    try:
        time.runtime.internal_error("psycopg.close", ValueError("x"))
    finally:
        logging.getLogger("leakguard").removeHandler(handler)
    assert time.runtime.internal_errors == 2


def test_a_beat_never_raises(time: FakeTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What goes wrong in it is counted."""
    monkeypatch.setattr(time.runtime.rounds, "work", lambda **_: 1 / 0)
    time.runtime.beat()
    assert time.runtime.internal_errors == 1


def test_one_signal_that_cannot_be_judged_does_not_stop_the_others(
    time: FakeTime, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither those before it in the same round, nor those after it."""
    leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker)
    judge, taken = time.runtime.rounds.judge, itertools.count()
    real = judge.take

    def take(signal: Signal, now: float) -> list[Outcome]:
        found = real(signal, now)
        if found and next(taken) == 1:
            raise RuntimeError("the second one")
        return found

    monkeypatch.setattr(judge, "take", take)
    outer = pool.getconn()
    for _ in range(3):
        pool.putconn(pool.getconn())  # each one while the first is held
    pool.putconn(outer)
    time.runtime.beat()
    assert [leak.kind for leak in recorder.leaks] == ["nested_acquire"]
    assert time.runtime.internal_errors == 1
    assert leakguard.install().summary().leaks == {"nested_acquire": 2}


def test_one_finding_that_cannot_be_told_does_not_stop_the_others(
    time: FakeTime, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One bad item is an internal error; what was found in the same round is told all the same."""
    guard = leakguard.install(on_leak=recorder)
    real = guard.enter

    def enter(finding: Any) -> Any:
        if finding.pool.name == "bad":
            raise RuntimeError("this one cannot be resolved")
        return real(finding)

    monkeypatch.setattr(guard, "enter", enter)
    for name in ("good", "bad", "better"):
        drop(Pool(time.runtime.tracker, name, library=name))
    time.advance()
    assert [leak.pool.name for leak in recorder.leaks if leak.pool] == ["good", "better"]
    assert time.runtime.internal_errors == 1


# ------------------------------------------------------------------------------------------------------------- check


def test_check_returns_each_leak_once(time: FakeTime, recorder: Recorder) -> None:
    """Also those that the watchdog has told meanwhile."""
    leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker)
    drop(pool)
    time.advance()
    pool.getconn()  # dropped, and collected by the check itself
    leaks = leakguard.check()
    assert [leak.kind for leak in leaks] == ["dropped", "dropped"]
    assert leakguard.check() == []


def test_check_judges_what_is_due_now_and_nothing_else(time: FakeTime, recorder: Recorder) -> None:
    """What is held in order is no leak."""
    leakguard.install(on_leak=recorder, threshold=60.0)
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    assert leakguard.check() == []
    time.clock.advance(60.0)
    assert [leak.kind for leak in leakguard.check()] == ["overdue"]
    assert leakguard.check() == []
    pool.putconn(kept)


def test_check_raises_where_that_was_asked_for(time: FakeTime) -> None:
    """Everything but advice; and what was raised is not raised again."""
    leakguard.install(on_leak="raise")
    pool = Pool(time.runtime.tracker)
    kept = [pool.getconn(), pool.getconn()]
    assert [leak.kind for leak in leakguard.check()] == ["nested_acquire"]
    del kept[0]
    with pytest.raises(ConnectionLeakError) as raised:
        leakguard.check()
    assert [leak.kind for leak in raised.value.leaks] == ["dropped"]
    assert "test_runtime.py" in str(raised.value)
    assert leakguard.check() == []
    pool.putconn(kept[0])
    pool.putconn(pool.getconn())


def test_raise_raises_from_the_next_acquire_of_the_same_guard(time: FakeTime) -> None:
    """Not in the release, not in the finalizer, not in another guard's acquire; and once."""
    leakguard.install(on_leak="raise")
    other = Pool(time.runtime.tracker, "other")
    time.runtime.watch(lambda one: one is other, {"on_leak": Recorder()})
    pool = Pool(time.runtime.tracker)
    kept = pool.getconn()
    drop(pool)
    time.advance()
    other.putconn(other.getconn())
    pool.putconn(kept)
    with pytest.raises(ConnectionLeakError) as raised:
        pool.getconn()
    assert "dropped" in [leak.kind for leak in raised.value.leaks]
    pool.putconn(pool.getconn())


def test_advice_is_never_raised(time: FakeTime) -> None:
    """`nested_acquire` is told, not raised."""
    leakguard.install(on_leak="raise")
    pool = Pool(time.runtime.tracker)
    kept = [pool.getconn(), pool.getconn()]
    time.advance()
    kept.append(pool.getconn())
    assert len(kept) == 3


@pytest.mark.slow
def test_the_leaks_that_wait_for_a_check_are_bounded(time: FakeTime, recorder: Recorder) -> None:
    """The oldest make room, the counts stay exact."""
    guard = leakguard.install(on_leak=recorder)
    drop(Pool(time.runtime.tracker, size=None), 1_100)
    leaks = guard.check()
    assert len(leaks) == 1_000
    assert leaks[-1].count == 1_100


def test_holds_are_told_oldest_first(time: FakeTime, recorder: Recorder) -> None:
    """From all guards."""
    leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker)
    kept = [pool.getconn(), connect(time.runtime.tracker)]
    assert [hold.library for hold in leakguard.holds()] == ["psycopg_pool", "psycopg"]
    assert leakguard.holds()[0].id < leakguard.holds()[1].id
    assert len(kept) == 2


def test_work_that_interrupts_itself_leaves_it_to_the_outer_call(time: FakeTime, recorder: Recorder) -> None:
    """A signal handler in the midst of it asks for a check: no deadlock."""
    guard = leakguard.install(on_leak=recorder)
    asked: list[list[Leak]] = []
    with time.runtime.rounds.collecting(lambda finding, leak: asked.append(leakguard.check())):
        drop(Pool(time.runtime.tracker))
        time.advance()
    assert len(asked) == 1
    assert len(recorder.leaks) == 1
    guard.uninstall()


# ---------------------------------------------------------------------------------------------------------- the end


def test_at_exit_checkouts_are_outstanding_and_direct_connections_are_not(time: FakeTime, recorder: Recorder) -> None:
    """One last collection, one last judgement, the summary, and silence."""
    leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker)
    kept: list[object] = [pool.getconn(), connect(time.runtime.tracker)]
    time.runtime.at_exit()
    assert [(event.event, getattr(event, "boundary", None)) for event in recorder.events] == [
        ("leak", "exit"),
        ("summary", None),
    ]
    (leak,) = recorder.leaks
    assert (leak.kind, leak.certain) == ("outstanding", False)
    time.runtime.at_exit()
    kept.clear()
    gc.collect()
    time.advance(100.0)
    assert len(recorder.events) == 2
    assert time.runtime.internal_errors == 0


def test_at_exit_what_is_folded_is_told(time: FakeTime, recorder: Recorder) -> None:
    """So the highest count is exact."""
    leakguard.install(on_leak=recorder)
    drop(Pool(time.runtime.tracker), 5)
    time.runtime.at_exit()
    assert [leak.count for leak in recorder.leaks] == [1, 5]


def test_the_exit_hooks_are_taken_back(time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered with the first guard, unregistered with the last: a handler, and a finalizer."""
    registered: list[object] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)

    def finalizers() -> list[object]:
        registry: dict[weakref.finalize[..., object], object] = weakref.finalize._registry  # type: ignore[attr-defined]
        return [one for one in registry if (known := one.peek()) is not None and known[0] is time.runtime]

    guard = leakguard.install(on_leak=Recorder())
    other = time.runtime.watch(lambda pool: False, {"on_leak": Recorder()})
    assert (len(registered), len(finalizers())) == (1, 1)
    guard.uninstall()
    assert (len(registered), len(finalizers())) == (1, 1)
    other.uninstall()
    assert (registered, finalizers()) == ([], [])


FORKING = """
import os, sys, threading
import leakguard
from leakguard import runtime
from leakguard.testing import Recorder
from tests.core.support import Pool, connect
recorder = Recorder()
guard = leakguard.install(on_leak=recorder, report="%p.jsonl", threshold=0.1)
pool = Pool(runtime.current().tracker)
kept = [pool.getconn(), connect(runtime.current().tracker)]
runtime.current().rounds._lock.acquire()  # as if another thread held it
pid = os.fork()
if pid == 0:
    recorder.clear()
    assert leakguard.holds() == []
    assert leakguard.check() == []
    pool.putconn(kept[0])
    assert guard.summary().acquired == 0, guard.summary()
    assert guard.summary().released == 0, guard.summary()
    mine = pool.getconn()
    assert [hold.owner.pid for hold in leakguard.holds()] == [os.getpid()]
    names = [thread.name for thread in threading.enumerate()]
    sys.exit(0 if [event for event in recorder.events if event.event == "leak"] == [] else 5)
runtime.current().rounds._lock.release()
assert os.waitpid(pid, 0)[1] == 0
assert len(leakguard.holds()) == 2
"""


@pytest.mark.slow
def test_a_forked_child_has_a_life_of_its_own(tmp_path: Path) -> None:
    """No holds, no counts, no locks of its parent; a report file of its own, and both write a summary."""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    summaries = []
    for file in sorted(tmp_path.glob("*.jsonl")):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        assert {event["pid"] for event in events if event["event"] == "summary"} == {int(file.stem)}
        summaries += [event for event in events if event["event"] == "summary"]
    assert sorted(event["acquired"] for event in summaries) == [1, 2]
    assert [event["internal_errors"] for event in summaries] == [0, 0]


def test_a_runtime_is_not_replaced_under_a_guard(time: FakeTime) -> None:
    """Its pools would be judged by nobody."""
    guard = leakguard.install(on_leak=Recorder())
    with pytest.raises(AssertionError):
        runtime.replace_current(time.runtime)
    guard.uninstall()


@pytest.mark.slow
def test_the_real_watchdog_reports_by_itself() -> None:
    """The one test with the real clock: a drop is reported within a second, by a thread of leakguard's own."""
    told = threading.Event()
    names: list[str] = []

    def report(event: Event) -> None:
        if isinstance(event, Leak):
            names.append(threading.current_thread().name)
            told.set()

    with leakguard.install(on_leak=report):
        pool = Pool(runtime.current().tracker)
        pool.getconn()
        gc.collect()
        assert told.wait(1.0)
    assert names == ["leakguard-reporter"]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("leakguard")]


# ------------------------------------------------------------------------------------------------- off and on again


def test_off_and_on_without_a_restart(time: FakeTime, recorder: Recorder) -> None:
    """`configure(enabled=...)`: what was held before is forgotten, what comes later is judged, the counts go on."""
    guard = leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker, size=None)
    drop(pool)
    held = pool.getconn()
    guard.configure(enabled=False)
    assert time.runtime.guards == []
    assert [leak.kind for leak in recorder.leaks] == ["dropped"]
    guard.configure(enabled=True, threshold=5)
    assert leakguard.holds() == []
    again = Pool(time.runtime.tracker, size=None)
    drop(again)
    time.advance(10)
    assert [(leak.kind, leak.count) for leak in recorder.leaks] == [("dropped", 1), ("dropped", 2)]
    assert leakguard.install() is guard
    guard.uninstall()
    guard.configure(threshold=7)  # of an uninstalled guard: nothing comes back
    assert time.runtime.guards == []
    assert held


def test_a_watched_pool_comes_back_too(time: FakeTime, recorder: Recorder) -> None:
    """A guard of one pool watches that pool again, and no other."""
    guard = time.runtime.watch(lambda pool: isinstance(pool, Pool) and pool.size == 7, {"on_leak": recorder})
    guard.configure(enabled=False)
    guard.configure(enabled=True)
    pool, other = Pool(time.runtime.tracker, size=7), Pool(time.runtime.tracker, size=8)
    drop(other)
    drop(pool)
    time.advance()
    assert [leak.kind for leak in recorder.leaks] == ["dropped"]
    guard.uninstall()


def test_only_one_guard_watches_the_process(time: FakeTime, recorder: Recorder) -> None:
    """A guard that was switched off cannot come back beside its successor, and says so."""
    first = leakguard.install(on_leak=recorder)
    first.configure(enabled=False)
    second = leakguard.install(on_leak=recorder)
    with pytest.raises(SettingsError, match="another guard watches the process"):
        first.configure(enabled=True)
    assert time.runtime.guards == [second]
    second.uninstall()
