"""The system's own locks, thread idents and thread-local storage, also where gevent has put its own in their place.

leakguard's threads are real ones, and share their locks with the application's greenlets. A lock of gevent's switches
to another greenlet where it has to wait: in the midst of our own code, and inside a finalizer too. So whatever
leakguard locks with comes from here, whether it was imported before ``monkey.patch_all()`` or after.
"""

from __future__ import annotations

import _thread
import select
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any


def _original(module: ModuleType, name: str) -> Any:
    monkey = sys.modules.get("gevent.monkey")
    return getattr(module, name) if monkey is None else monkey.get_original(module.__name__, name)


get_ident: Callable[[], int] = _original(_thread, "get_ident")
"""The ident of the running thread, one for all its greenlets: the key of ``sys._current_frames()``."""
Lock: Callable[[], threading.Lock] = _original(_thread, "allocate_lock")
RLock: Callable[[], threading.RLock] = _original(_thread, "RLock")
"""Re-entrant for a signal handler, and, as it knows threads alone, for all greenlets of a thread."""
Local: Callable[[], threading.local] = _original(_thread, "_local")
sleep: Callable[[float], None] = _original(time, "sleep")
"""Without a switch, which gevent forbids in its hub, where callbacks and signal handlers may run."""
poll: Callable[[], select.poll] = _original(select, "poll")
