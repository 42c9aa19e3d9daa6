"""The timeline: which place a number belongs to."""

from __future__ import annotations

from leakguard.pytest_plugin.places import OUTSIDE, Place, Timeline


class Count:
    """Stands for the tracker's count of holds and pools."""

    last = 0

    def __call__(self) -> int:
        return self.last

    def take(self) -> int:
        self.last += 1
        return self.last


def test_number_belongs_to_what_ran_when_it_was_taken() -> None:
    count = Count()
    timeline = Timeline(count)
    test, fixture = Place(test="t"), Place(fixture="f")
    before = count.take()
    timeline.enter(test)
    in_setup = count.take()
    timeline.enter(fixture)
    in_fixture = [count.take(), count.take()]
    timeline.leave(fixture)
    in_call = count.take()
    timeline.leave(test)
    after = count.take()
    assert [timeline.at(number) for number in (before, in_setup, *in_fixture, in_call, after)] == [
        OUTSIDE,
        test,
        fixture,
        fixture,
        test,
        OUTSIDE,
    ]


def test_number_from_before_the_timeline_is_outside() -> None:
    count = Count()
    old = count.take()
    timeline = Timeline(count)
    timeline.enter(Place(test="t"))
    count.take()
    assert timeline.at(old) is OUTSIDE


def test_places_that_take_nothing_cost_nothing() -> None:
    timeline = Timeline(Count())
    for number in range(1_000):
        place = Place(test=str(number))
        timeline.enter(place)
        timeline.leave(place)
    assert len(timeline._places) <= 2


def test_places_that_leave_nothing_are_forgotten() -> None:
    count = Count()
    timeline = Timeline(count)
    for number in range(1_000):
        place = Place(test=str(number))
        timeline.enter(place)
        count.take()
        timeline.forget(place)
        timeline.leave(place)
    assert len(timeline._places) == 1


def test_leaving_ends_what_began_inside() -> None:
    """A fixture whose setup was interrupted never says that it ends."""
    count = Count()
    timeline = Timeline(count)
    test, lost = Place(test="t"), Place(fixture="lost")
    timeline.enter(test)
    timeline.enter(lost)
    timeline.leave(test)
    assert timeline.current is OUTSIDE
    timeline.leave(lost)
    assert timeline.current is OUTSIDE
    assert timeline.at(count.take()) is OUTSIDE
