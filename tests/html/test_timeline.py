"""The time lines: what events prove about a pool, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from leakguard.html import timeline
from leakguard.html.page import Span, Track
from leakguard.html.timeline import Timeline
from leakguard.model import Event, HolderGroup
from tests.factories import (
    FINGERPRINT,
    later,
    make_exhausted,
    make_hold,
    make_leak,
    make_owner,
    make_pool,
    make_recovered,
    make_site,
    make_summary,
)


def tracks(*events: Event) -> tuple[Track, ...]:
    """The time lines of these events."""
    found = Timeline()
    for event in events:
        found.observe(event)
    return found.tracks()


def span(*events: Event) -> Span:
    """The only span of the only time line."""
    (track,) = tracks(*events)
    (one,) = track.spans
    return one


def hold(start: float = 0, held_for: float = 1.0, **changes: Any) -> Any:
    """A hold that began so many seconds after noon."""
    return make_hold(acquired_at=later(start), held_for=held_for, **changes)


def test_a_dropped_checkout_takes_its_slot_along() -> None:
    """From its end on the slot is lost, until the process ends."""
    one = span(make_leak(hold=hold(), time=later(1)), make_summary(time=later(60)))
    assert (one.start, one.seen, one.until, one.fate) == (later(0), later(1), later(60), "lost")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"healed": True}, id="healed"),
        pytest.param({"hold": hold(pool=None), "pool": None}, id="direct"),
        pytest.param({"hold": hold(library="sqlalchemy")}, id="detached"),
    ],
)
def test_what_cost_no_slot_is_just_over(changes: dict[str, Any]) -> None:
    """The library took it back, there is no pool, or the pool had let go of it before."""
    one = span(make_leak(**{"hold": hold(), "time": later(1)} | changes), make_summary(time=later(60)))
    assert (one.seen, one.until, one.fate) == (later(1), later(1), "ended")


def test_a_suspect_that_came_back_is_over() -> None:
    """Its end is the one that the recovery tells, not that of the suspicion."""
    one = span(
        make_leak(kind="overdue", certain=False, hold=hold(), time=later(1)),
        make_recovered(hold=hold(held_for=7.5), held_for=7.5, time=later(7.6)),
    )
    assert (one.start, one.until, one.fate) == (later(0), later(7.5), "ended")


def test_what_nobody_saw_come_back_may_still_be_held() -> None:
    """Certain up to the last event that speaks of it, possible up to the end of the process."""
    one = span(
        make_leak(kind="overdue", certain=False, hold=hold(), time=later(1)),
        make_leak(kind="orphaned", hold=hold(held_for=5.0), time=later(5)),
        make_summary(time=later(60)),
    )
    assert (one.seen, one.until, one.fate) == (later(5), later(60), "unknown")


def test_a_process_id_that_comes_again_is_another_process() -> None:
    """What the first run did not give back ended with it; its numbers begin anew."""
    (track,) = tracks(
        make_leak(kind="orphaned", hold=hold(0), time=later(1)),
        make_summary(time=later(10)),
        make_leak(kind="orphaned", hold=hold(100), time=later(101)),
        make_summary(time=later(110)),
    )
    assert [(one.start, one.until) for one in track.spans] == [(later(0), later(10)), (later(100), later(110))]


def test_an_attempt_is_no_hold() -> None:
    """Nobody has said whether the nested acquire got its connection."""
    assert tracks(make_leak(kind="nested_acquire", certain=False, hold=hold())) == ()


def test_an_exhausted_pool_is_counted_exactly() -> None:
    """Also what was never reported: so many of each place, its oldest since when, and by which name."""
    (track,) = tracks(make_exhausted(time=later(10)), make_summary())
    (sample,) = track.samples
    assert (track.name, track.capacity, track.refused) == ("main", 16, 1)
    assert (sample.time, sample.held, sample.lost) == (later(10), 15, 1)
    assert sample.holders == ((FINGERPRINT, 12), ("a03b77c15e20", 3))
    assert [(one.fingerprint, one.start, one.until) for one in track.spans] == [
        (FINGERPRINT, later(10 - 724), later(10)),
        ("a03b77c15e20", later(10 - 4.2), later(10)),
    ]
    assert dict(track.places)["a03b77c15e20"] == "/srv/shop/report.py:17"


def test_the_oldest_hold_of_an_exhausted_pool_is_not_told_twice() -> None:
    """It is one that was reported, or the one of the time before: then it was held for longer."""
    group = HolderGroup(fingerprint=FINGERPRINT, count=1, oldest=10.0, site=make_site())
    again = HolderGroup(fingerprint=FINGERPRINT, count=1, oldest=30.0, site=make_site())
    reported = make_leak(kind="orphaned", hold=hold(0, 1.0), time=later(1))
    ten = make_exhausted(holders=(group,), time=later(10))
    thirty = make_exhausted(holders=(again,), time=later(30), count=2)
    for events in ([reported, ten, thirty], [ten, thirty]):
        one = span(*events)
        assert (one.start, one.seen) == (later(0), later(30))


def test_an_exhausted_pool_is_that_of_the_process_with_its_id() -> None:
    """The event tells no host; where two hosts have that process id, it belongs to neither."""
    leak = make_leak(kind="orphaned", hold=hold(), time=later(1))
    other = make_leak(kind="orphaned", hold=hold(owner=make_owner(host="web2")), time=later(1))
    assert len(tracks(leak, make_exhausted())) == 1
    assert len(tracks(leak, other, make_exhausted())) == 3


def test_a_server_without_room_belongs_to_the_direct_connections() -> None:
    """They have no limit of their own."""
    (track,) = tracks(
        make_leak(kind="orphaned", hold=hold(pool=None), pool=None, time=later(1)),
        make_exhausted(cause="server", pool=None, capacity=None, time=later(2)),
    )
    assert (track.name, track.capacity, track.refused) == ("direct connections", None, 1)


def test_the_limit_is_the_newest_that_is_told() -> None:
    """By a leak of the pool, or by its exhaustion; the limit of a server is none of the pool's."""
    leak = make_leak(kind="orphaned", hold=hold(), time=later(1), pool=make_pool(capacity=4))
    assert tracks(leak)[0].capacity == 4
    assert tracks(leak, make_exhausted(capacity=16))[0].capacity == 16
    assert tracks(leak, make_exhausted(cause="server", capacity=100))[0].capacity == 4


def test_those_without_a_connection_left_come_first() -> None:
    """Then those with most holds."""
    events = [make_leak(kind="orphaned", hold=hold(id=number, pool="many"), time=later(1)) for number in range(3)]
    found = tracks(*events, make_leak(kind="orphaned", hold=hold(id=9, pool="few"), time=later(1)), make_exhausted())
    assert [track.name for track in found] == ["main", "many", "few"]


def test_events_without_times_are_left_out() -> None:
    """Another writer may tell none; there is nothing to draw, and nothing in the year 1970."""
    unknown = timeline.UNKNOWN_TIME
    assert tracks(make_leak(hold=make_hold(acquired_at=unknown))) == ()
    assert tracks(make_exhausted(time=unknown), make_summary(time=unknown)) == ()


def test_spans_beyond_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood costs no more than the limit, and the page can say what it does not draw."""
    monkeypatch.setattr(timeline, "LIMIT", 3)
    (track,) = tracks(*(make_leak(kind="orphaned", hold=hold(id=n), time=later(1)) for n in range(5)))
    assert (len(track.spans), track.left_out) == (3, 2)
