"""How long acquires wait, checkouts are used and connects take: from the hot path to whoever exports it.

Counts need none of this: an exporter reads them from the register when it is asked. A duration has to be told when it
is over, in the midst of the application's acquire or release, perhaps in a finalizer that has interrupted the exporter
itself. So it is put into a queue there, without a lock, and a thread of ours hands it on.
"""

from __future__ import annotations

import itertools
import os
from _queue import Empty, SimpleQueue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from leakguard.model import Trace
from leakguard.process import daemon
from leakguard.process.native import get_ident
from leakguard.register.records import PoolRecord, Watch, count_of
from leakguard.register.tracker import Tracker

if TYPE_CHECKING:
    import threading

NAME: Final = "leakguard-export"
EVERY: Final = 1.0
"""Seconds between two beats of the exporters."""
ENDING_LIMIT: Final = 1.0
"""Seconds that the end of the last exporter waits for our thread, which may be in one that blocks."""
QUEUE_LIMIT: Final = 100_000
"""The most durations that wait to be handed on; what comes on top of them is dropped, and counted."""

Duration: TypeAlias = Literal["wait", "use", "create"]


class Exporter(Protocol):
    """Whoever carries metrics out of the process. Called by one thread at a time, never inside the application."""

    def observe(self, duration: Duration, pool: str, seconds: float) -> None:
        """A duration of one pool."""

    def beat(self, *, last: bool) -> None:
        """About a second has passed; or this is the `last` call, at the end of the process."""

    def forget(self) -> None:
        """This is a forked child: what was observed, opened and locked so far is the parent's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscriber:
    """An exporter, and what it is told of: the pools of one guard, by the names that `label` gives them."""

    exporter: Exporter
    watch: Watch
    label: Callable[[str], str]
    trace: Callable[[], Trace | None] | None
    failed: Callable[[str, BaseException], None]


class Durations:
    """The `Meter` of a process, while anybody exports. Its thread starts with the first subscriber.

    `waited`, `used` and `created` take no lock. The others are called by whoever installs, and by our own thread.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._queue: deque[tuple[Duration, PoolRecord, float]] = deque()
        self._dropped = itertools.count()
        self._subscribers: tuple[Subscriber, ...] = ()
        self._stop: SimpleQueue[None] | None = None
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    @property
    def dropped(self) -> int:
        """How many durations found no room in the queue."""
        return count_of(self._dropped)

    # ------------------------------------------------------------------ inside the application's acquire and release

    def waited(self, pool: PoolRecord, seconds: float) -> None:
        """A checkout was handed out."""
        if len(self._queue) < QUEUE_LIMIT:
            self._queue.append(("wait", pool, seconds))
        else:
            next(self._dropped)

    def used(self, pool: PoolRecord, seconds: float) -> None:
        """A checkout was returned."""
        if len(self._queue) < QUEUE_LIMIT:
            self._queue.append(("use", pool, seconds))
        else:
            next(self._dropped)

    def created(self, pool: PoolRecord, seconds: float) -> None:
        """A server connection was opened for the pool."""
        if len(self._queue) < QUEUE_LIMIT:
            self._queue.append(("create", pool, seconds))
        else:
            next(self._dropped)

    # ------------------------------------------------------------------ outside

    def subscribe(self, subscriber: Subscriber) -> None:
        """Tell an exporter from now on."""
        self._set(*self._subscribers, subscriber)

    def unsubscribe(self, exporter: Exporter, watch: Watch) -> None:
        """Tell it what has happened so far, and then no more. Nothing happens if it is not told."""
        self.flush()
        self._set(*(one for one in self._subscribers if one.exporter is not exporter or one.watch is not watch))

    def _set(self, *subscribers: Subscriber) -> None:
        self._subscribers = subscribers
        self._tracker.meter = self if subscribers else None
        self._tracker.trace = next((one.trace for one in subscribers if one.trace is not None), None)
        self._tracker.measure()
        self._tracker.measure()
        if subscribers:
            self._start()
        else:
            self._end()

    def flush(self) -> None:
        """Hand on what waits."""
        queue = self._queue
        for _ in range(len(queue)):
            try:
                duration, pool, seconds = queue.popleft()
            except IndexError:  # another thread hands on at the same time
                return
            for one in self._subscribers:
                if one.watch is pool.watch:
                    try:
                        one.exporter.observe(duration, one.label(pool.name), seconds)
                    except Exception as error:
                        self._failed(one, error)

    def beat(self, *, last: bool = False) -> None:
        """Hand on what waits, and let every exporter do what it does from time to time. Never raises."""
        self.flush()
        for one in self._subscribers:
            try:
                one.exporter.beat(last=last)
            except Exception as error:
                self._failed(one, error)
        if last:
            self._end()

    def _failed(self, one: Subscriber, error: Exception) -> None:
        """One that raises is told no more, as a reporter that raises is; a full disk may have room again."""
        if isinstance(error, OSError):
            one.failed("exporter", error)
        else:
            self._set(*(other for other in self._subscribers if other is not one))
            one.failed("exporter (it is switched off)", error)

    def forget(self) -> None:
        """In a forked child: what waits is the parent's, whose thread does not exist here. Idempotent."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._queue, self._dropped = deque(), itertools.count()
        self._stop = self._thread = None
        for one in self._subscribers:
            one.exporter.forget()
        if self._subscribers:
            self._start()

    def _start(self) -> None:
        if self._stop is None:
            stop = self._stop = SimpleQueue()
            try:
                self._thread = daemon.start(lambda: self._run(stop), NAME)
            except RuntimeError:  # no thread can be started now: the next subscriber, or child, tries again
                self._stop = None

    def _end(self) -> None:
        if self._stop is None:
            return
        self._stop.put(None)
        thread, self._stop, self._thread = self._thread, None, None
        if thread is not None and thread.ident != get_ident():
            thread.join(ENDING_LIMIT)

    def _run(self, stop: SimpleQueue[None]) -> None:
        while True:
            try:
                return stop.get(True, EVERY)
            except Empty:
                self.beat()


def durations_of(tracker: Tracker) -> Durations:
    """The one that is in use, or a new one."""
    return tracker.meter if isinstance(tracker.meter, Durations) else Durations(tracker)
