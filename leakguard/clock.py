"""Time, behind one small interface, so that no test has to sleep through a threshold."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Two time sources: `monotonic` for durations and deadlines, `wall` for what people read.

    Both return seconds. Only `monotonic` is called on the hot path. Thread-safe as long as the functions are.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time

    def datetime_of(self, moment: float) -> datetime:
        """The aware wall-clock time (UTC) of a `monotonic` moment, seen from now."""
        return datetime.fromtimestamp(self.wall() - (self.monotonic() - moment), UTC)

    def now(self) -> datetime:
        """The aware wall-clock time (UTC)."""
        return datetime.fromtimestamp(self.wall(), UTC)


SYSTEM_CLOCK = Clock()
