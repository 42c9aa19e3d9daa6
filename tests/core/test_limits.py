"""How long a hold may last: thresholds of pools and sites, learned ones, and standstills of the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import leakguard
from leakguard.judging.limits import ENOUGH, UNTAUGHT, seconds_of
from leakguard.register.stacks import REMEMBERED, SitePoint
from leakguard.testing import FakeTime, Recorder, fake_time
from tests.core.support import Pool


@pytest.fixture
def time() -> Iterator[FakeTime]:
    """leakguard on a fake clock."""
    with fake_time() as time:
        yield time


def some_site(*durations: float) -> SitePoint:
    """A site whose holds have lasted so long."""
    site = SitePoint(some_site.__code__, 0)
    for seconds in durations:
        site.lasted(seconds)
    return site


@pytest.mark.parametrize(
    ("durations", "limit"),
    [
        ((), UNTAUGHT),
        ((0.002,), UNTAUGHT),
        ((0.002,) * (ENOUGH - 1), UNTAUGHT),
        ((0.002,) * ENOUGH, 1.0),
        ((0.5,) * ENOUGH, 5.0),
        ((480.0,), 4800.0),  # the nightly report, after its first night
        ((0.002,) * 19 + (30.0,), 1.0),  # one in twenty is forgiven
        ((0.002,) * 18 + (30.0,) * 2, 300.0),
        ((30.0,) * 10 + (0.002,) * REMEMBERED, 1.0),  # what was usual long ago is forgotten
    ],
)
def test_a_learned_threshold_is_a_multiple_of_what_is_usual(durations: tuple[float, ...], limit: float) -> None:
    """Ten times the 95th percentile; never below a second, nor, before ten holds, below a minute."""
    assert seconds_of("learned", some_site(*durations)) == pytest.approx(limit)


@pytest.mark.parametrize("threshold", [12.0, None])
def test_a_given_threshold_teaches_itself_nothing(threshold: float | None) -> None:
    """Seconds stay what they are, whatever the site's holds last."""
    assert seconds_of(threshold, some_site(0.002)) == threshold


def quick(pool: Pool) -> object:
    """Always held for 2 ms, when it works."""
    return pool.getconn()


def nightly(pool: Pool) -> object:
    """Always held for minutes."""
    return pool.getconn()


def test_a_site_teaches_its_own_threshold(time: FakeTime) -> None:
    """What always takes 2 ms is suspect at a second; what takes eight minutes is not at ten."""
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder, threshold="learned")
    pool = Pool(time.runtime.tracker, size=None)
    for _ in range(ENOUGH):
        for site, seconds in ((quick, 0.002), (nightly, 480.0)):
            connection = site(pool)
            time.clock.advance(seconds)
            pool.putconn(connection)
    long, short = nightly(pool), quick(pool)
    time.advance(0.9)
    assert recorder.leaks == []
    time.advance(0.2)
    assert [leak.site and leak.site.function for leak in recorder.leaks] == ["quick"]
    time.advance(600)
    assert len(recorder.leaks) == 1
    pool.putconn(short)
    pool.putconn(long)
    guard.uninstall()


def test_durations_are_not_kept_where_nobody_learns(time: FakeTime) -> None:
    """They would cost time on every release; they are kept from the moment at which they are asked for."""
    guard = leakguard.install(on_leak=Recorder())
    pool = Pool(time.runtime.tracker)
    for threshold, kept in ((60.0, 0), ("learned", 1), (60.0, 1)):
        guard.configure(threshold=threshold)
        connection = quick(pool)
        (hold,) = time.runtime.tracker.holds()
        pool.putconn(connection)
        assert hold.site is not None
        assert len(hold.site.durations or ()) == kept
    guard.uninstall()


def test_pools_and_sites_have_thresholds_of_their_own(time: FakeTime) -> None:
    """The first pattern that matches counts; what matches none has everybody's threshold."""
    recorder = Recorder()
    thresholds = {"function=nightly": None, "pool=reports": 600, "file=*/test_limits.py": 5}
    guard = leakguard.install(on_leak=recorder, threshold=60, thresholds=thresholds)
    main, reports = (Pool(time.runtime.tracker, name, size=None) for name in ("main", "reports"))
    held = [quick(main), quick(reports), nightly(main)]
    time.advance(5.5)
    assert [(leak.pool and leak.pool.name) for leak in recorder.leaks] == ["main"]
    time.advance(590)
    assert len(recorder.leaks) == 1
    time.advance(5)
    assert [(leak.pool and leak.pool.name) for leak in recorder.leaks] == ["main", "reports"]
    time.advance(10_000)
    assert len(recorder.leaks) == 2
    for pool, connection in zip((main, reports, main), held, strict=True):
        pool.putconn(connection)
    guard.uninstall()


def test_new_thresholds_hold_for_what_is_held_already(time: FakeTime) -> None:
    """`configure()` at run time: a lower limit is looked at at once, a higher one spares."""
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder, threshold=60)
    pool = Pool(time.runtime.tracker, "main")
    connection = quick(pool)
    time.advance(10)
    guard.configure(thresholds={"pool=main": 600})
    time.advance(100)
    assert recorder.leaks == []
    guard.configure(thresholds=["pool=main:20"])
    time.advance()
    assert [leak.kind for leak in recorder.leaks] == ["overdue"]
    pool.putconn(connection)
    guard.uninstall()


# ------------------------------------------------------------------------------------------------------- standstills


def test_a_standstill_of_the_process_does_not_count(time: FakeTime) -> None:
    """What was held while the process was stopped may be held for as much longer; what came later may not."""
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder, threshold=60)
    pool = Pool(time.runtime.tracker, size=None)
    before = quick(pool)
    time.clock.advance(3_600)  # nobody beats meanwhile
    time.runtime.rounds.judge.excuse(time.clock.monotonic(), 3_600)
    after = nightly(pool)
    time.advance(59)
    assert recorder.leaks == []
    time.advance(2)
    assert {leak.site and leak.site.function for leak in recorder.leaks} == {"quick", "nightly"}
    assert [leak.hold.held_for > 3_600 for leak in recorder.leaks if leak.hold] == [True, False]
    pool.putconn(before)
    pool.putconn(after)
    guard.uninstall()


def test_an_owner_that_ended_before_a_standstill_has_its_whole_grace(time: FakeTime) -> None:
    """The grace after an owner's end is for others to take over; nobody could."""
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder, owner_grace=5)
    pool = Pool(time.runtime.tracker)
    connection = quick(pool)
    (hold,) = time.runtime.tracker.holds()
    time.advance(1)
    hold.owner.ended_at = time.clock.monotonic()
    time.clock.advance(100)
    time.runtime.rounds.judge.excuse(time.clock.monotonic(), 100)
    time.advance(4)
    assert recorder.leaks == []
    time.advance(2)
    assert [leak.kind for leak in recorder.leaks] == ["orphaned"]
    hold.owner.ended_at = None
    pool.putconn(connection)
    guard.uninstall()
