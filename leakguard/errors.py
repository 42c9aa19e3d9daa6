"""Every error leakguard raises on purpose, in one tree. Imports nothing of the package.

::

    LeakguardError
    ├── ConnectionLeakError      leaks were found and the user asked to be told by an exception
    ├── GrowthError              assert_no_growth() saw something grow in every round; also an AssertionError
    ├── SettingsError            a bad setting; also a ValueError
    └── UnsupportedError         an object or library version that leakguard cannot watch; also a TypeError
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leakguard.growth import Growth
    from leakguard.model import Leak


class LeakguardError(Exception):
    """The base of all errors that leakguard raises on purpose."""


class ConnectionLeakError(LeakguardError):
    """Raised where the user asked for it: ``on_leak="raise"``, ``no_leaks()``, a test boundary.

    ``leaks`` holds the findings; ``str()`` is the full text report. The text is rendered when it is first
    asked for, because most of these errors are only counted.
    """

    def __init__(self, leaks: Sequence[Leak], render: Callable[[Sequence[Leak]], str]) -> None:
        super().__init__(f"{len(leaks)} connection leak(s)")
        self.leaks: list[Leak] = list(leaks)
        self._render = render

    def __str__(self) -> str:
        return self._render(self.leaks)

    def __reduce__(self) -> tuple[type[LeakguardError], tuple[str]]:
        # Leaks cross process boundaries (xdist, multiprocessing) as their text: a renderer does not pickle.
        return LeakguardError, (str(self),)


class GrowthError(LeakguardError, AssertionError):
    """Something grew in every round of ``assert_no_growth()``. `growths` says what; ``str()`` is the whole text."""

    def __init__(self, text: str, growths: Sequence[Growth] = ()) -> None:
        super().__init__(text)
        self.growths: list[Growth] = list(growths)


class SettingsError(LeakguardError, ValueError):
    """A setting has a value that is not accepted, or does not exist. The text names its source."""


class UnsupportedError(LeakguardError, TypeError):
    """The object given to ``watch()`` or ``allow()`` is of no kind that leakguard knows."""
