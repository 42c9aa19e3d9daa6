"""What the garbage collector knows, asked so that no other thread suffers.

A tuple that another thread is just building, as in ``tuple(x for x in ...)``, is in the collector's lists. If somebody
else refers to it when it is finished, that thread gets a SystemError. So each list is made, looked through and dropped
in one call of C, in which no other thread runs: nothing of it may be in a variable, not even an iterator that is used
up, and nothing of ours may be in the list and refer to it. No code of the application's is called.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from itertools import chain, compress, starmap, tee
from operator import eq, is_, is_not, itemgetter


def referrers(wanted: tuple[object, ...]) -> list[object]:
    """Everything that refers to one of these, but for tuples that are not finished."""
    one, two, three, four = tee(chain.from_iterable(starmap(gc.get_referrers, (wanted,))), 4)
    others = compress(one, map(partial(is_not, tuple), map(type, two)))
    first, second, third = tee(compress(three, map(partial(is_, tuple), map(type, four))), 3)
    # One that is not finished has places in which there is nothing yet.
    whole = compress(first, map(eq, map(tuple.__len__, second), map(len, map(gc.get_referents, third))))
    everything = [chain(others, whole)]
    del one, two, three, four, others, first, second, third, whole
    return list(everything.pop())


def object_count() -> int:
    """How many objects the collector knows."""
    return next(map(len, map(gc.get_objects, (None,))))


def instances(kind: type) -> list[object]:
    """All objects of this type and the types below it: first the places where they are, then what is there."""
    kinds = {id(cls) for cls in _with_subclasses(kind)}
    found: list[object] = []
    for _ in range(3):  # others may come and go between the two looks
        types = list(map(id, map(type, chain.from_iterable(map(gc.get_objects, (None,))))))
        # Counted from the end, where those stand that have been there for long.
        places = [at - len(types) for at, one in enumerate(types) if one in kinds]
        if not places:
            break
        try:
            there = next(map(itemgetter(places[0], *places), map(gc.get_objects, (None,))))
        except IndexError:
            continue
        found = [one for one in there[1:] if id(type(one)) in kinds]
        if len(found) == len(places):
            break
    return found


def _with_subclasses(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = type.__subclasses__(kind)
    for cls in below:
        yield from _with_subclasses(cls)
