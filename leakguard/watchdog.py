"""The one thread of leakguard: it waits for signals, sleeps to the next deadline, and has both judged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol

from leakguard.process import daemon
from leakguard.process.native import RLock, get_ident

NAME: Final = "leakguard-watchdog"


class Beat(Protocol):
    """One round of the watchdog's work."""

    def __call__(self, *, block: bool) -> None:
        """Wait for something to do, if `block`, and do it. Must not raise."""


class Watchdog:
    """Starts lazily, because a forked child has to start its own, and never keeps the process alive."""

    def __init__(self, beat: Beat, interrupt: Callable[[], None]) -> None:
        self._beat = beat
        self._interrupt = interrupt
        self._lock = RLock()  # re-entrant: a signal handler may open a connection in the midst of it
        self._running = False
        self._thread: threading.Thread | None = None

    def ensure(self) -> None:
        """Start the thread unless it runs. Called on rare occasions only: a new pool, a new server connection."""
        if not self._running:
            self._start_once()

    def _start_once(self) -> None:
        with self._lock:
            if self._running or sys.is_finalizing():
                return
            self._running = True
            try:
                self._thread = daemon.start(self._run, NAME)
            except RuntimeError:  # "can't start new thread": at shutdown, or at the machine's limit; try again later
                self._running = False

    def stop(self) -> None:
        """End the thread and wait until it has, unless it is the one that asks."""
        with self._lock:
            thread, self._thread, self._running = self._thread, None, False
        self._interrupt()
        if thread is not None and thread.ident != get_ident():
            thread.join(5.0)

    def forget(self) -> None:
        """In a forked child the thread does not exist; its lock may have been held when the parent forked."""
        self._lock = RLock()
        self._running = False
        self._thread = None

    def _run(self) -> None:
        while self._running:
            self._beat(block=True)
