"""The ends of a process that `atexit` sees too late or not at all.

A child of multiprocessing and a worker of Celery's pool leave by ``os._exit()``. uvicorn, having shut down in order,
kills itself with the very signal that asked it to. The interpreter ends the threads of executors before it calls
`atexit`. Whoever is killed from outside, or calls ``os._exit()`` himself, says nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol

from leakguard.patching import Patches, dressed

_LAST: Final = -100
"""The priority of our finalizer among those of multiprocessing: after everybody's."""


class Ending(Protocol):
    """What there is to do at an end. Must not raise."""

    def at_exit(self) -> None:
        """The process ends now. Idempotent."""

    def at_executors_exit(self, threads: Collection[int]) -> None:
        """The interpreter is about to end these threads (idents)."""


class Endings:
    """Has the work of the end done in front of such an end. Install and undo hold the runtime's lock."""

    def __init__(self, ending: Ending) -> None:
        self._ending = ending
        self._patches = Patches()
        self._registered: set[str] = set()

    def hooks(self) -> dict[str, Callable[[], None]]:
        """What to call once these modules have been imported."""
        return {
            "concurrent.futures.thread": self._executors,
            "multiprocessing.util": self._multiprocessing,
            "celery.concurrency.prefork": self._celery,
            "signal": self._suicide,
        }

    def undo(self) -> None:
        """Put everything back."""
        self._patches.undo()

    def _once(self, name: str) -> bool:
        # What cannot be taken back, like os.register_at_fork, is registered once.
        first = name not in self._registered
        self._registered.add(name)
        return first

    def _executors(self) -> None:
        import threading
        from concurrent.futures import thread

        register = getattr(threading, "_register_atexit", None)  # the last one registered is the first one called
        threads = getattr(thread, "_threads_queues", None)
        if register is not None and threads is not None and self._once("executors"):
            register(lambda: self._ending.at_executors_exit([one.ident for one in list(threads)]))

    def _multiprocessing(self) -> None:
        from multiprocessing import util

        if self._once("multiprocessing"):
            util.register_after_fork(self, lambda ours: util.Finalize(None, ours._ending.at_exit, exitpriority=_LAST))

    def _celery(self) -> None:
        from celery.concurrency import prefork

        def make(original: Callable[..., object]) -> Callable[..., object]:
            def process_destructor(*args: Any, **kwargs: Any) -> object:
                try:
                    return original(*args, **kwargs)  # the application's worker_process_shutdown: it may close pools
                finally:
                    self._ending.at_exit()

            return dressed(process_destructor, original)

        self._patches.replace(prefork, "process_destructor", make)

    def _suicide(self) -> None:
        import signal

        deadly = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}

        def make(original: Callable[[int], None]) -> Callable[[int], None]:
            @functools.wraps(original)
            def raise_signal(signalnum: int, /) -> None:
                if signalnum in deadly and signal.getsignal(signalnum) is signal.SIG_DFL:
                    self._ending.at_exit()
                original(signalnum)

            return raise_signal

        self._patches.replace(signal, "raise_signal", make)
