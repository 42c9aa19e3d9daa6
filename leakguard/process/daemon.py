"""Threads of leakguard's own: native ones that never keep the process alive."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Final

from leakguard.process.native import get_ident

_running: Final[set[int]] = set()


def start(run: Callable[[], None], name: str) -> threading.Thread | None:
    """Start a native daemon thread; None where it is one that `threading` does not know.

    Native also where gevent has replaced `threading`: a greenlet that blocks in a native queue would stop the whole
    hub. Raises RuntimeError where no thread can be started: at shutdown, or at the machine's limit.
    """

    def counted() -> None:
        _running.add(get_ident())
        try:
            run()
        finally:
            _running.discard(get_ident())

    if _is_patched():
        sys.modules["gevent.monkey"].get_original("_thread", "start_new_thread")(counted, ())
        return None
    thread = threading.Thread(target=counted, name=name, daemon=True)
    thread.start()
    return thread


def forget() -> None:
    """In a forked child none of them exists."""
    _running.clear()


def are_left_alone() -> bool:
    """Whether the process goes on for these threads alone.

    So it is in a child that was forked in a thread, once that thread has ended: no interpreter shuts down there, the
    process is over when its last thread is, and a daemon thread is one. Elsewhere the main thread outlives us.
    """
    main = threading.main_thread()
    if isinstance(main, threading._MainThread) or main.is_alive() or _is_patched():  # type: ignore[attr-defined]
        return False
    return all(thread.ident in _running for thread in threading.enumerate())


def _is_patched() -> bool:
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))
