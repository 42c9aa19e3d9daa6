"""Rounds of work: what has happened and what is due is judged under one lock, and told with none held.

The watchdog works a round whenever something happens or falls due; so does whoever comes to a boundary, checks, or ends
a guard, in his own thread. No reporter, no exception and no other lock is ever inside the lock.
"""

from __future__ import annotations

import sys
import time
from _queue import Empty
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from leakguard import healing
from leakguard.clock import Clock
from leakguard.guard import Guard
from leakguard.judging.judge import Finding, Judge, Outcome
from leakguard.libraries import Libraries
from leakguard.model import Boundary, Event, Leak
from leakguard.process.native import RLock, get_ident, sleep
from leakguard.register.records import HoldRecord, PoolRecord, Watch
from leakguard.register.signals import Refused, Returned, Signal
from leakguard.register.tracker import Tracker
from leakguard.telling.delivery import TELLING_LIMIT, Delivery

STALL: Final = 5.0
"""Seconds that the watchdog has to be late before the whole process counts as stopped: by a signal, a debugger, or
with its machine. A busy one is late by far less."""
HAND_LIMIT: Final = 0.5
"""Seconds that a check waits for the watchdog to take up a signal; it needs far less than a millisecond."""
_HANDS_OVER: Final = sys.hexversion >= 0x030D0000


class Rounds:
    """Puts the judge to work for all `guards`. Thread-safe; a round inside a round, of the same thread, does nothing.

    With `settling` (seconds) the judge waits until a finalizer that another thread runs has had its say.
    """

    def __init__(
        self,
        tracker: Tracker,
        clock: Clock,
        guards: list[Guard],
        libraries: Libraries,
        delivery: Delivery,
        *,
        settling: float,
    ) -> None:
        self.judge = Judge(tracker, settling)
        self.ended = False
        """Nothing is judged any more: the process has told its last."""
        self.collectors: list[Callable[[Finding, Leak], None]] = []
        """Whom every finding is handed too, under the lock."""
        self._tracker = tracker
        self._clock = clock
        self._guards = guards
        self._libraries = libraries
        self._delivery = delivery
        # Re-entrant for a signal handler that checks, and comes when `_worker` is not written yet.
        self._lock = RLock()
        self._worker: int | None = None
        self._in_hand: deque[Signal] = deque()
        self._failed: deque[Exception] = deque()
        self._to_heal: deque[tuple[Finding, Leak]] = deque()
        self._waiting = False
        self._number = 0

    def begin_anew(self, settling: float) -> None:
        """A new judge, who knows of nothing that was before."""
        self.judge = Judge(self._tracker, settling)

    def forget(self, settling: float) -> None:
        """In a forked child: the parent's locks, signals and findings are not ours."""
        self._lock = RLock()
        self._worker = None
        self.ended = False
        self.collectors.clear()
        self._in_hand.clear()
        self._failed.clear()
        self._to_heal.clear()
        self._waiting = False
        self.begin_anew(settling)

    # ------------------------------------------------------------------ waiting, and taking in hand

    def wait(self) -> None:
        """Wait until something happens or falls due. Only the watchdog does; a None in the queue of signals ends it."""
        before = self._clock.monotonic()
        wait = self.judge.wait_for(before)
        self._waiting = True
        try:
            # From the queue into the hand in one step of C, in which no other thread can run: a check() that
            # comes in between would find the signal in neither, and call a leak clean.
            self._in_hand.extend(map(self._tracker.signals.get, (True,), (wait,)))
        except Empty:
            pass
        finally:
            self._waiting = False
            self._number += 1
        self._look_for_stall(before + wait)

    def _look_for_stall(self, expected: float) -> None:
        now = self._clock.monotonic()
        if now - expected > STALL:
            self.judge.excuse(now, now - expected)

    def _fill_hand(self) -> None:
        """Have a signal that is on its way to the watchdog arrive in its hand, where everybody can see it.

        From Python 3.13 on, a ``SimpleQueue`` gives what is put straight to the thread that waits for it, which may
        have to wait for the interpreter's lock before it can do anything with it.
        """
        rounds = self._number
        if not (_HANDS_OVER and self._waiting):
            return
        self._tracker.signals.put(None)
        deadline = time.monotonic() + HAND_LIMIT
        while self._number == rounds and time.monotonic() < deadline:
            sleep(0.0002)

    def _drain(self, now: float) -> list[Outcome]:
        outcomes: list[Outcome] = []
        signals = self._tracker.signals
        while True:
            try:
                signal = self._in_hand.popleft() if self._in_hand else signals.get_nowait()
            except Empty:
                return outcomes
            try:
                if not self.ended:
                    outcomes += self.judge.take(signal, now)
            except Exception as error:  # what cannot be judged must not cost the others of the same round
                self._failed.append(error)

    # ------------------------------------------------------------------ judging

    def work(
        self,
        *,
        everything: bool = False,
        boundary: Boundary | None = None,
        crossing: Iterable[HoldRecord] = (),
        outliving: Iterable[PoolRecord] = (),
        where: str = "",
        aside: bool = False,
    ) -> None:
        """Judge what has happened and what is due (or `everything` that is held), then tell it.

        At a `boundary`, which `where` words, also the holds that are `crossing` it and the pools `outliving` it. With
        `aside`, another thread calls the reporters.
        """
        me = get_ident()
        if self._worker == me:
            return  # a signal handler or a reporter's finalizer interrupted us: the outer call does the work
        told: list[tuple[Guard, Event]] = []
        if everything:
            self._fill_hand()
        with self._lock:
            self._worker = me
            try:
                now = self._clock.monotonic()
                self._enter(self._drain(now), now, told)
                self._enter(self.judge.sweep(now), now, told)
                if everything:
                    self._enter(self.judge.judge_all(now), now, told)
                self._enter(self._drain(now), now, told)  # what judging has brought to light
                if boundary is not None:
                    found = [self.judge.outstanding(hold, boundary, now, where) for hold in crossing]
                    found += [self.judge.unclosed(record, now, where) for record in outliving]
                    self._enter([finding for finding in found if finding is not None], now, told)
                for guard in self._guards:
                    told += [(guard, event) for event in guard.folded(now)]
            finally:
                self._worker = None
        while self._failed:
            self._libraries.internal_error("judge", self._failed.popleft())
        while self._to_heal:
            try:
                healing.heal(*self._to_heal.popleft(), self._libraries.say)
            except Exception as error:
                self._libraries.internal_error("reclaim", error)
        self._tell(told, aside=aside)

    def _enter(self, outcomes: Iterable[Outcome], now: float, told: list[tuple[Guard, Event]]) -> None:
        for outcome in outcomes:
            try:
                self._enter_one(outcome, now, told)
            except Exception as error:  # what cannot be told must not cost the others of the same round
                self._failed.append(error)

    def _enter_one(self, outcome: Outcome, now: float, told: list[tuple[Guard, Event]]) -> None:
        match outcome:
            case Finding():
                guard = self._guard_of(outcome.watch)
                if guard is None:
                    return
                leak, tell = guard.enter(outcome)
                if leak is None:
                    return
                for collect in self.collectors:
                    collect(outcome, leak)
                if healing.is_asked_for(outcome):
                    self._to_heal.append((outcome, leak))
                if tell:
                    told.append((guard, leak))
            case Returned():
                guard = self._guard_of(outcome.hold.pool.watch)
                if guard is not None:
                    told += [(guard, event) for event in guard.recovered(outcome)]
            case Refused():
                guard = self._guard_of(outcome.watch)
                refusal = guard.enter_refusal(outcome.event, now) if guard is not None else None
                if guard is not None and refusal is not None:
                    told.append((guard, refusal))

    def _guard_of(self, watch: Watch | None) -> Guard | None:
        return next((guard for guard in self._guards if guard.watch is watch), None)

    @contextmanager
    def collecting(self, collect: Callable[[Finding, Leak], None]) -> Iterator[None]:
        """Hand every finding to `collect` too, under the lock, for the length of a ``with`` block."""
        self.collectors.append(collect)
        try:
            yield
        finally:
            self.collectors.remove(collect)

    # ------------------------------------------------------------------ telling

    def _tell(self, told: list[tuple[Guard, Event]], *, aside: bool) -> None:
        """Tell the reporters, with no lock held: one of them may call us, or block for a minute.

        `aside` leaves that to another thread: the watchdog goes on watching.
        """
        for guard, event in told:
            guard.deliver(event)
        for outlet in dict.fromkeys(outlet for guard, _ in told for outlet in guard.told_by()):
            if aside:
                self._delivery.hand_over(outlet)
            else:
                outlet.drain(TELLING_LIMIT)

    def finish(self) -> None:
        """What was found is told before we say what came of it all; a reporter that blocks is waited for a little."""
        for outlet in dict.fromkeys(outlet for guard in self._guards for outlet in guard.told_by()):
            outlet.drain(TELLING_LIMIT)
            outlet.finish(TELLING_LIMIT)

    def say_last(self, guard: Guard) -> None:
        """Tell what is still folded, and the counts of it all."""
        self.finish()
        self._tell([(guard, event) for event in guard.folded(self._clock.monotonic(), everything=True)], aside=False)
        self._tell([(guard, guard.summary())], aside=False)
