"""Telling the reporters: one that blocks, raises or is too slow harms nobody, and what is lost is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

import leakguard
from leakguard.model import Event, Leak, Summary
from leakguard.telling.delivery import QUEUE_LIMIT, Delivery, Outlet
from leakguard.testing import FakeTime, Recorder, fake_time
from tests.core.support import Pool


def event(pid: int = 1) -> Summary:
    """Some event; `pid` tells it apart."""
    return Summary(
        time=datetime.now(UTC),
        pid=pid,
        process="",
        host="",
        acquired=0,
        released=0,
        held=0,
        leaked=0,
        leaks={},
        internal_errors=0,
    )


class Failures:
    """What an outlet says of its reporter."""

    def __init__(self) -> None:
        self.errors: list[tuple[BaseException, bool]] = []
        self.slow: list[int] = []

    def outlet(self, report: object) -> Outlet:
        return Outlet(
            report,  # type: ignore[arg-type]
            lambda error, off: self.errors.append((error, off)),
            lambda outlet: self.slow.append(outlet.dropped),
        )


@pytest.fixture
def failures() -> Failures:
    return Failures()


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    delivery = Delivery()
    yield delivery
    delivery.stop()


class Blocked:
    """A reporter that blocks until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go = threading.Event(), threading.Event()
        self.told: list[Event] = []

    def report(self, event: Event) -> None:
        self.entered.set()
        assert self.go.wait(10)
        self.told.append(event)


@pytest.mark.slow
def test_a_reporter_that_blocks_holds_up_no_other(delivery: Delivery, failures: Failures) -> None:
    """Once it has been stuck for a second, another thread tells the others; later it tells what waited for it."""
    blocked, told = Blocked(), threading.Event()
    stuck, quick = failures.outlet(blocked.report), failures.outlet(lambda _event: told.set())
    stuck.put(event())
    delivery.hand_over(stuck)
    assert blocked.entered.wait(5)
    quick.put(event())
    delivery.hand_over(quick)
    for _ in range(50):  # the watchdog's beats
        delivery.tend()
        if told.wait(0.1):
            break
    assert told.is_set()
    stuck.put(event(2))
    blocked.go.set()
    stuck.finish(5)
    stuck.drain(5)
    assert [one.pid for one in blocked.told if isinstance(one, Summary)] == [1, 2]


def test_what_finds_no_room_is_counted_exactly_and_said_once(failures: Failures) -> None:
    """A thousand wait, the rest is dropped."""
    told: list[Event] = []
    outlet = failures.outlet(told.append)
    kept = [outlet.put(event()) for _ in range(QUEUE_LIMIT + 7)]
    assert kept.count(False) == outlet.dropped == 7
    assert failures.slow == []
    outlet.drain()
    assert (len(told), failures.slow) == (QUEUE_LIMIT, [7])
    outlet.put(event())
    outlet.drain()
    assert failures.slow == [7]


def test_nothing_is_dropped_while_there_is_room(failures: Failures) -> None:
    """The clean twin: as many as there is room for."""
    told: list[Event] = []
    outlet = failures.outlet(told.append)
    assert all(outlet.put(event()) for _ in range(QUEUE_LIMIT))
    outlet.drain()
    assert (len(told), outlet.dropped, failures.slow) == (QUEUE_LIMIT, 0, [])


def test_a_reporter_that_raises_is_switched_off_and_a_full_disk_is_tried_again(failures: Failures) -> None:
    """An OSError may be over with the next event; anything else is a bug of the reporter's."""
    calls: list[str] = []

    def full_disk(_event: Event) -> None:
        calls.append("disk")
        raise OSError(28, "No space left on device")

    def buggy(_event: Event) -> None:
        calls.append("bug")
        raise KeyError("bug")

    for report in (full_disk, buggy):
        outlet = failures.outlet(report)
        for _ in range(3):
            outlet.put(event())
            outlet.drain()
    assert calls == ["disk", "disk", "disk", "bug"]
    assert [off for _, off in failures.errors] == [False, False, False, True]


def test_a_reporter_that_tells_itself_more_does_not_wait_for_itself(failures: Failures) -> None:
    """A reporter may call check(), which tells what waits: the outer call does that, once, in order."""
    told: list[int] = []

    def report(one: Event) -> None:
        assert isinstance(one, Summary)
        if one.pid == 1:
            outlet.put(event(2))
            outlet.drain(10)
            outlet.finish(10)
        told.append(one.pid)

    outlet = failures.outlet(report)
    outlet.put(event(1))
    outlet.drain()
    assert told == [1, 2]


def test_a_thread_that_cannot_be_started_is_tried_again(
    delivery: Delivery, failures: Failures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the machine's limit the event waits for the next beat."""
    told = threading.Event()
    outlet = failures.outlet(lambda _event: told.set())
    outlet.put(event())
    with monkeypatch.context() as at_limit:

        def start(*_args: object) -> None:
            raise RuntimeError("can't start new thread")

        at_limit.setattr("leakguard.process.daemon.start", start)
        delivery.hand_over(outlet)
    assert not told.is_set()
    delivery.tend()
    assert told.wait(5)


# ------------------------------------------------------------------------------------------------------ with a guard


@pytest.fixture
def time() -> Iterator[FakeTime]:
    """leakguard on a fake clock."""
    with fake_time() as time:
        yield time


def test_a_leak_that_found_no_room_is_told_later_with_its_count(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The highest count that is told stays exact, and the summary says how many events were dropped."""
    monkeypatch.setattr("leakguard.telling.delivery.QUEUE_LIMIT", 0)
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder)
    pool = Pool(time.runtime.tracker, size=None)
    for _ in range(3):
        pool.getconn()
    time.advance()
    assert recorder.leaks == []
    assert guard.summary().dropped_events == 1
    monkeypatch.setattr("leakguard.telling.delivery.QUEUE_LIMIT", 1_000)
    time.advance(10)
    assert [leak.count for leak in recorder.leaks] == [3]
    guard.uninstall()
    (summary,) = [one for one in recorder.events if isinstance(one, Summary)]
    assert (summary.dropped_events, summary.leaks) == (1, {"dropped": 3})


@pytest.mark.slow
def test_the_watchdog_goes_on_while_a_reporter_blocks() -> None:
    """What is found meanwhile is counted, told to the others, and told to the slow one when it comes back."""
    from leakguard import runtime

    blocked, second = Blocked(), threading.Event()

    def other(one: Event) -> None:
        if isinstance(one, Leak) and one.kind == "nested_acquire":
            second.set()

    with leakguard.install(on_leak=[blocked.report, other]):
        pool = Pool(runtime.current().tracker)
        pool.getconn()  # dropped
        assert blocked.entered.wait(5)
        held = [pool.getconn(), pool.getconn()]  # nested
        assert second.wait(5)
        assert len(blocked.told) == 0
        blocked.go.set()
    del held
    assert {one.kind for one in blocked.told if isinstance(one, Leak)} >= {"dropped", "nested_acquire"}
