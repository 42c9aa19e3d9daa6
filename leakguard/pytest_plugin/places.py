"""Which test or fixture acquired: a timeline of what ran, read by the serial number of a hold.

Every hold and every pool takes the next number of one count when it begins. Whenever the running test or fixture
changes, the count is noted; so a number alone says where it belongs, also when a background thread took it, and also
long after, when the garbage collector finds the hold.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """One run of one test, or one life of one fixture; compared by identity. Both null: outside of any test.

    `where` tells where a fixture is defined, as ``file:line``; it is asked only if there is something to report.
    `node` is the session, package, module or class that a fixture lives for.
    """

    test: str | None = None
    fixture: str | None = None
    scope: str = ""
    where: Callable[[], str] = str
    node: str = ""

    @property
    def key(self) -> str:
        """The same for the same test, or fixture of the same node, in every process."""
        return f"{self.node} {self.title}" if self.fixture is not None else self.test or ""

    @property
    def title(self) -> str:
        """How a report names it."""
        if self.fixture is not None:
            return f"fixture {self.fixture} ({self.scope} scope), {self.where()}"
        return self.test or "outside of any test"

    @property
    def ended(self) -> str:
        """The end of a sentence: still open ..."""
        if self.fixture is not None:
            return f"when the fixture {self.fixture} ({self.scope} scope) had been torn down"
        return "when the test had ended, after the teardown of its fixtures"


OUTSIDE: Final = Place()


class Timeline:
    """What ran when. Written by the thread that runs the tests, read by any.

    A boundary costs one look at the count; memory grows only with the places that acquired something.
    """

    def __init__(self, last_serial: Callable[[], int]) -> None:
        self._last_serial = last_serial
        self._running = [OUTSIDE]
        self._after: list[int] = [-1]
        self._places: list[Place] = [OUTSIDE]

    @property
    def current(self) -> Place:
        """What runs now."""
        return self._running[-1]

    def enter(self, place: Place) -> int:
        """The place begins, inside of what runs now. Returns the last number that is not its own."""
        self._running.append(place)
        return self._note(place)

    def leave(self, place: Place) -> None:
        """The place ends, and with it whatever is left of what began inside of it."""
        if place in self._running:
            del self._running[self._running.index(place) :]
            self._note(self._running[-1])

    def forget(self, place: Place) -> None:
        """Nothing that the place acquired is left: its number is not going to be asked for."""
        if self._places[-1] is not place:
            return
        if self._places[-2] is OUTSIDE:
            del self._after[-1], self._places[-1]
        else:
            self._places[-1] = OUTSIDE

    def at(self, serial: int) -> Place:
        """Where a hold or a pool of this number began."""
        return self._places[max(bisect_left(self._after, serial) - 1, 0)]

    def _note(self, place: Place) -> int:
        last = self._last_serial()
        if self._after[-1] == last:  # the place before took no number: it is as if it had not been
            self._places[-1] = place
        elif self._places[-1] is not place:
            self._after.append(last)
            self._places.append(place)
        return last
