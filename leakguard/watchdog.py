"""The one thread of leakguard: it waits for signals, sleeps to the next deadline, and has both judged."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol

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
        self._lock = threading.RLock()  # re-entrant: a signal handler may open a connection in the midst of it
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
                self._thread = _start(self._run)
            except RuntimeError:  # "can't start new thread": at shutdown, or at the machine's limit; try again later
                self._running = False

    def stop(self) -> None:
        """End the thread and wait until it has, unless it is the one that asks."""
        with self._lock:
            thread, self._thread, self._running = self._thread, None, False
        self._interrupt()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)

    def forget(self) -> None:
        """In a forked child the thread does not exist; its lock may have been held when the parent forked."""
        self._lock = threading.RLock()
        self._running = False
        self._thread = None

    def _run(self) -> None:
        while self._running:
            self._beat(block=True)


def _start(run: Callable[[], None]) -> threading.Thread | None:
    """Start a native daemon thread, also where gevent has replaced `threading`: a greenlet that blocks in a native
    queue would stop the whole hub."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        monkey.get_original("_thread", "start_new_thread")(run, ())
        return None
    thread = threading.Thread(target=run, name=NAME, daemon=True)
    thread.start()
    return thread
