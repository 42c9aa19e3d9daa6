"""What leakguard offers to other people's tests: a clock by hand, a reporter that remembers, and both put together."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

import leakguard
from leakguard import runtime
from leakguard.testing import NOON, FakeClock, Recorder, fake_time
from tests.core.support import Pool
from tests.factories import make_exhausted, make_leak, make_recovered, make_summary


def test_a_fake_clock_stands_still_until_it_is_advanced() -> None:
    """Both hands move together, and datetimes follow."""
    clock = FakeClock()
    assert (clock.monotonic(), clock.monotonic(), clock.wall()) == (1000.0, 1000.0, NOON)
    clock.advance(2.5)
    assert (clock.monotonic(), clock.wall()) == (1002.5, NOON + 2.5)
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert clock.now() == noon + timedelta(seconds=2.5)
    assert clock.datetime_of(1000.0) == noon


@pytest.mark.parametrize("seconds", [-0.001, float("nan")])
def test_a_fake_clock_does_not_go_back(seconds: float) -> None:
    """A monotonic clock never does."""
    with pytest.raises(ValueError, match="does not go back"):
        FakeClock().advance(seconds)


def test_two_fake_clocks_are_two_clocks() -> None:
    """Each has hands of its own, and may start where it likes."""
    one, other = FakeClock(), FakeClock(monotonic=5.0, wall=7.0)
    one.advance(1.0)
    assert (other.monotonic(), other.wall()) == (5.0, 7.0)


def test_a_recorder_sorts_what_it_was_told() -> None:
    """All events in order, and each sort by itself."""
    recorder = Recorder()
    leaks = [make_leak(), make_leak(kind="overdue", certain=False)]
    events = [leaks[0], make_recovered(), leaks[1], make_exhausted(), make_summary()]
    for event in events:
        recorder.report(event)
    assert recorder.events == events
    assert recorder.leaks == leaks
    assert recorder.of_kind("overdue") == leaks[1:]
    assert (recorder.recovered, recorder.exhausted, recorder.summaries) == ([events[1]], [events[3]], [events[4]])
    recorder.clear()
    assert recorder.events == []


def test_fake_time_finds_at_the_very_moment() -> None:
    """The example of the module's own documentation, with a pool of plain objects."""
    recorder = Recorder()
    with fake_time() as time, leakguard.install(threshold=30.0, on_leak=recorder):
        pool = Pool(time.runtime.tracker)
        connection = pool.getconn()
        time.advance(29.999)
        assert recorder.leaks == []
        time.advance(0.001)
        (leak,) = recorder.leaks
        assert leak.kind == "overdue"
        assert leak.time == time.clock.now()
        pool.putconn(connection)
        time.advance()
        assert [one.held_for for one in recorder.recovered] == [30.0]


def test_a_long_advance_judges_everything_on_the_way() -> None:
    """Each finding bears the time at which it became one."""
    recorder = Recorder()
    with fake_time() as time, leakguard.install(threshold=30.0, idle_in_transaction=45.0, on_leak=recorder):
        pool = Pool(time.runtime.tracker)
        kept = pool.getconn("in_transaction")
        begun = time.clock.now()
        time.advance(3600.0)
        assert [(leak.kind, (leak.time - begun).total_seconds()) for leak in recorder.leaks] == [
            ("overdue", 30.0),
            ("idle_in_transaction", 45.0),
        ]
        assert (time.clock.now() - begun).total_seconds() == 3600.0
        assert kept is not None


def test_fake_time_starts_no_thread_and_puts_the_process_back() -> None:
    """The same runtime as before, without guards, also when one was left installed, even pinned."""
    before, threads = runtime.current(), threading.active_count()
    with fake_time() as time:
        assert runtime.current() is time.runtime is not before
        leakguard.install(on_leak=Recorder())
        time.runtime.pin(lambda event: None)
        pool = Pool(time.runtime.tracker)
        pool.putconn(pool.getconn())
        assert threading.active_count() == threads
    assert runtime.current() is before
    assert time.runtime.guards == []


def test_fake_time_ends_with_its_block() -> None:
    """Also where the block raises."""
    before = runtime.current()
    with pytest.raises(ZeroDivisionError), fake_time():  # noqa: PT012 - the block
        leakguard.install(on_leak=Recorder())
        _ = 1 / 0
    assert runtime.current() is before


def test_fake_time_has_to_begin_first() -> None:
    """A guard that is installed already keeps its own time."""
    with fake_time():
        with leakguard.install(on_leak=Recorder()):
            with pytest.raises(RuntimeError, match="before install"):
                with fake_time():
                    pass
