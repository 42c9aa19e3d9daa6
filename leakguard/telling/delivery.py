"""Telling the reporters. Each has a bounded queue of its own, so one that blocks holds up nobody else.

What the watchdog finds is told by a thread that is started with the first event; whoever crosses a boundary tells
what waits himself. A reporter is never called by two threads at once.
"""

from __future__ import annotations

import sys
import threading
import time
from _queue import SimpleQueue
from collections import deque
from collections.abc import Callable
from typing import Final

from leakguard.model import Event
from leakguard.process import daemon
from leakguard.process.native import Lock, get_ident

NAME: Final = "leakguard-reporter"
QUEUE_LIMIT: Final = 1_000
"""The most events that wait for one reporter; later ones are dropped, and counted."""
STUCK_AFTER: Final = 1.0
"""Seconds in one reporter after which another thread tells the others."""
TELLING_LIMIT: Final = 2.0
"""Seconds that a boundary waits for a reporter that another thread is in."""


class Outlet:
    """One reporter, and the events that wait for it. Thread-safe.

    `failed` is told what the reporter raises: an OSError, which a full disk may be and the next event may not meet, or
    anything else, after which the reporter is told nothing more. `slow` is told once of events that were dropped.
    """

    __slots__ = ("_failed", "_off", "_said", "_slow", "_teller", "_token", "_waiting", "dropped", "report")

    def __init__(
        self,
        report: Callable[[Event], object],
        failed: Callable[[BaseException, bool], None],
        slow: Callable[[Outlet], None],
    ) -> None:
        self.report = report
        self.dropped = 0
        self._failed = failed
        self._slow = slow
        self._off = self._said = False
        self.forget()

    def forget(self) -> None:
        """In a forked child: what waits is the parent's to tell, and a thread of the parent's may be telling it."""
        self._waiting: deque[Event] = deque()
        self._token = Lock()
        self._teller: int | None = None
        self.dropped = 0

    def put(self, event: Event) -> bool:
        """Have an event wait; False if there was no room for it."""
        if self._off:
            return True
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            return False
        self._waiting.append(event)
        return True

    def drain(self, wait: float = 0.0) -> None:
        """Tell what waits, unless another thread goes on telling for longer than `wait` seconds."""
        # Again after the token is given back: whoever put an event in just before found it taken, and went.
        while self._waiting and self._teller != get_ident() and self._token.acquire(timeout=wait):
            self._teller = get_ident()
            try:
                while self._waiting:
                    self._tell(self._waiting.popleft())
                if self.dropped and not self._said:
                    self._said = True
                    self._slow(self)
            finally:
                self._teller = None
                self._token.release()

    def finish(self, wait: float) -> None:
        """Wait until the thread that is telling, if it is another one, has finished; at most `wait` seconds."""
        if self._teller not in (None, get_ident()) and self._token.acquire(timeout=wait):
            self._token.release()

    def _tell(self, event: Event) -> None:
        try:
            if not self._off:
                self.report(event)
        except Exception as error:
            self._off = not isinstance(error, OSError)
            self._failed(error, self._off)


class Delivery:
    """The threads that tell. Mostly none or one; another one while a reporter blocks. Thread-safe."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a forked child the threads do not exist; their lock may have been held when the parent forked."""
        self._lock = Lock()
        self._forget_workers()

    def hand_over(self, outlet: Outlet) -> None:
        """Have the events that wait in `outlet` told by another thread, soon."""
        self._ready.put(outlet)
        self.tend()

    def tend(self) -> None:
        """See to it that somebody tells what is ready; called with every beat of the watchdog."""
        if self._ready.empty() or sys.is_finalizing():
            return
        with self._lock:
            latest = time.monotonic() - STUCK_AFTER
            if any(since is None or since > latest for since in list(self._busy_since.values())):
                return
            worker = object()
            self._busy_since[worker] = None
            try:
                self._threads[worker] = daemon.start(lambda: self._run(worker, self._busy_since), NAME)
            except RuntimeError:  # no thread can be started now: the next beat tries again, and a boundary tells
                del self._busy_since[worker]

    def stop(self) -> None:
        """End the threads, each as soon as it has come back from its reporter; those that are idle, now."""
        with self._lock:
            idle = [self._threads.get(worker) for worker, since in self._busy_since.items() if since is None]
            for _ in self._busy_since:
                self._ready.put(None)
            self._forget_workers()
        for thread in idle:
            if thread is not None and thread.ident != get_ident():
                thread.join(STUCK_AFTER)

    def _forget_workers(self) -> None:
        self._ready: SimpleQueue[Outlet | None] = SimpleQueue()
        self._busy_since: dict[object, float | None] = {}
        self._threads: dict[object, threading.Thread | None] = {}

    def _run(self, worker: object, busy_since: dict[object, float | None]) -> None:
        ready = self._ready
        while (outlet := ready.get()) is not None:
            busy_since[worker] = time.monotonic()
            outlet.drain()
            with self._lock:
                busy_since[worker] = None
                if len(busy_since) > 1 and ready.empty():  # one was stuck, and this one or that one is not needed now
                    del busy_since[worker]
                    self._threads.pop(worker, None)
                    return
