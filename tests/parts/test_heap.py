"""The collector's lists: what is in them, and that nobody suffers from a look."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from leakguard.process import heap


class Base:
    """A class of our own."""


class Derived(Base):
    """And one below it."""


@pytest.mark.parametrize("look", ["referrers", "count", "instances"])
def test_a_tuple_that_is_being_built_is_left_alone(look: str) -> None:
    """Whoever builds it would get a SystemError if somebody else had hold of it when it is finished."""
    thing: list[object] = []
    finished = (thing, thing)
    found: list[list[object]] = []

    def items() -> Iterator[object]:
        yield thing
        match look:
            case "referrers":
                found.append(heap.referrers((thing,)))
            case "count":
                assert heap.object_count() > 1000
            case _:
                found.append([*heap.instances(Path)])

    built = tuple(items())
    assert built == (thing,)
    if look == "referrers":
        assert any(one is finished for one in found[0])
        assert not any(one is built for one in found[0])


def test_what_refers_to_an_object_is_found() -> None:
    """In a list, a dict, an instance and a tuple."""
    thing = Base()
    holders = [[thing], {"key": thing}, (thing, None), Derived()]
    holders[3].thing = thing  # type: ignore[attr-defined]
    found = heap.referrers((thing,))
    for holder in holders[:3]:
        assert any(one is holder for one in found)
    assert any(one is holders[3] or one is vars(holders[3]) for one in found)


def test_several_are_asked_about_at_once() -> None:
    """One pass over the heap for all of them."""
    first, second = Base(), Base()
    holders = [[first], [second]]
    found = heap.referrers((first, second))
    assert all(any(one is holder for one in found) for holder in holders)


def test_instances_are_found_with_those_of_subclasses() -> None:
    """And nothing else."""
    kept = [Base(), Derived(), Derived()]
    assert sorted(map(id, heap.instances(Base))) == sorted(map(id, kept))
    assert sorted(map(id, heap.instances(Derived))) == sorted(map(id, kept[1:]))
    del kept
    assert heap.instances(Base) == []


def test_nothing_is_kept() -> None:
    """Without the collector's help: there is no cycle of garbage left behind."""
    thing = Base()
    ref = weakref.ref(thing)
    gc.collect()
    gc.disable()
    try:
        heap.referrers((thing,))
        heap.object_count()
        heap.instances(Base)
        del thing
        assert ref() is None
    finally:
        gc.enable()
