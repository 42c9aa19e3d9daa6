"""Whether anybody but its pool still refers to a connection that was handed out, told by counting references.

Some pools (asyncpg's, psycopg2's) refer strongly to what they lend. A checkout that everybody else has forgotten is
then never collected, and nothing can give it back any more: that is proven by a count which says that the pool's own
references are the only ones. The count is exact as long as the interpreter's lock is held while it is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

from leakguard.register.records import HoldRecord

KEEPING: Final = frozenset({"asyncpg_pool", "psycopg2_pool"})
"""The libraries whose pools refer strongly to what they lend. No other pool is asked, at any look."""
CONFIRMED_AFTER: Final = 0.1
"""Seconds between the two looks that a proof takes. A library may pass a connection on through its own hands alone."""


def owners_of(get: Callable[[], object]) -> int | None:
    """How many references there are to what `get` returns, without those of this very question.

    `get` must only reach for it (``lambda: pool._used[key]``), and nobody on the stack above may have it in a local
    variable. None where this interpreter does not let it be told.
    """
    surplus = _surplus()
    return None if surplus is None else _count(get) - surplus


def _count(get: Callable[[], object]) -> int:
    return sys.getrefcount(get())


class _Box:
    __slots__ = ("first", "second")

    def __init__(self, thing: object) -> None:
        self.first: object = thing
        self.second: object = thing


@cache
def _surplus() -> int | None:
    """How many references asking adds, measured on an object of our own; None if the counts do not behave."""
    box = _Box([])
    surplus = _count(lambda: box.first) - 2
    third = box.first
    with_third = _count(lambda: box.first)
    del third
    box.second = None
    if (with_third, _count(lambda: box.first)) == (surplus + 3, surplus + 1) and _has_one_lock():
        return surplus
    import logging  # here: nearly every interpreter counts

    logging.getLogger("leakguard").warning(
        "leakguard: this interpreter does not tell how many references an object has. A checkout that only its pool "
        "refers to is not proven to be dropped then; it is found when its owner ends, or by its age."
    )
    return None


def _has_one_lock() -> bool:
    """Without the interpreter's lock, counts are spread over threads and may be deferred."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class Abandoned:
    """Looks for checkouts that only their pool refers to, and believes what it has seen twice. Not thread-safe."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}

    def look(self, holds: Iterable[HoldRecord], now: float) -> list[HoldRecord]:
        """Those of `holds` that nobody refers to now, nor did at an earlier look."""
        seen, self._seen = self._seen, {}
        found = []
        for hold in holds:
            if is_abandoned(hold):
                first = self._seen[hold.serial] = seen.get(hold.serial, now)
                if now - first >= CONFIRMED_AFTER:
                    found.append(hold)
        return found

    @property
    def waiting(self) -> bool:
        """Whether a first look has found something."""
        return bool(self._seen)


def is_abandoned(hold: HoldRecord) -> bool:
    """Whether nobody but its pool refers to it at this moment. False where that cannot be told."""
    record, handle = hold.pool, hold.handle
    if record.library not in KEEPING or record.probe is None or handle is None or hold.active_since is not None:
        return False
    try:
        return record.probe.abandoned(record.pool(), handle) is True
    except Exception:  # it has been given back meanwhile
        return False
