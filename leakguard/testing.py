"""For tests of leak reports and thresholds: time that is moved by hand, and a reporter that remembers.

::

    with fake_time() as time:
        recorder = Recorder()
        with leakguard.install(threshold=30.0, on_leak=recorder):
            connection = pool.getconn()
            time.advance(30.0)
            assert [leak.kind for leak in recorder.leaks] == ["overdue"]
            pool.putconn(connection)

Nothing here sleeps, and no thread is started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from leakguard import runtime
from leakguard.clock import Clock
from leakguard.model import Event, Exhausted, Leak, Recovered, Summary
from leakguard.runtime import Runtime

NOON: Final = 1_769_860_800.0
"""2026-01-31 12:00 UTC: the wall time at which a `FakeClock` starts."""


class FakeClock(Clock):
    """A clock that stands still until it is told to `advance`. Not thread-safe while it is advanced."""

    __slots__ = ("_hands",)
    _hands: list[float]

    def __init__(self, *, monotonic: float = 1000.0, wall: float = NOON) -> None:
        hands = [monotonic, wall]
        super().__init__(monotonic=lambda: hands[0], wall=lambda: hands[1])
        object.__setattr__(self, "_hands", hands)  # the base class is frozen: its two functions never change

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on both hands. Raises ValueError for a step back, which no monotonic clock takes."""
        if not seconds >= 0:
            raise ValueError(f"time does not go back: advance({seconds!r})")
        self._hands[0] += seconds
        self._hands[1] += seconds


class Recorder:
    """A reporter that keeps every event it is told, oldest first: ``install(on_leak=Recorder())``."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        """Keep one event; leakguard calls this."""
        self.events.append(event)

    @property
    def leaks(self) -> list[Leak]:
        """The leaks told so far. A flood of one bug is folded: read the `count` of its last one."""
        return [event for event in self.events if isinstance(event, Leak)]

    @property
    def recovered(self) -> list[Recovered]:
        """The suspected holds that came back after all."""
        return [event for event in self.events if isinstance(event, Recovered)]

    @property
    def exhausted(self) -> list[Exhausted]:
        """The acquires that failed for want of a connection."""
        return [event for event in self.events if isinstance(event, Exhausted)]

    @property
    def summaries(self) -> list[Summary]:
        """The summaries: one for each guard that has ended."""
        return [event for event in self.events if isinstance(event, Summary)]

    def of_kind(self, kind: str) -> list[Leak]:
        """The leaks of one kind, such as ``"overdue"``."""
        return [leak for leak in self.leaks if leak.kind == kind]

    def clear(self) -> None:
        """Forget what has been told so far."""
        self.events.clear()


class FakeTime:
    """What `fake_time()` yields: the `clock` of this process's leakguard, and the way to move it."""

    def __init__(self, clock: FakeClock, runtime: Runtime) -> None:
        self.clock = clock
        self.runtime = runtime

    def advance(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, with everything that the watchdog thread would have judged and reported meanwhile.

        A finding is made at its very moment, and so are those that are due at the end of the step; ``advance()``
        alone judges what is due now.
        """
        clock = self.clock
        end = clock.monotonic() + seconds
        self.runtime.beat()
        while (left := end - clock.monotonic()) > 0:
            # A thousandth at least, as the judge itself waits: a step too small for the clock would never end.
            clock.advance(min(left, max(self.runtime._judge.wait_for(clock.monotonic()), 0.001)))
            self.runtime.beat()


@contextmanager
def fake_time() -> Iterator[FakeTime]:
    """Run leakguard on a `FakeClock` for the length of a ``with`` block, without its watchdog thread.

    Guards are installed inside the block; those that are left at its end are uninstalled. Raises RuntimeError while
    one is installed outside it. Only leakguard's time stands still: pools and drivers go on by the real clock.
    """
    if runtime.current().guards:
        raise RuntimeError("leakguard is installed: fake_time() has to begin before install() or watch()")
    clock = FakeClock()
    ours = Runtime(clock, threaded=False)
    previous = runtime.replace_current(ours)
    try:
        yield FakeTime(clock, ours)
    finally:
        ours.unpin()
        for guard in list(ours.guards):
            guard.uninstall()
        runtime.replace_current(previous)
