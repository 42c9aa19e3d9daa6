"""What runs at this moment: stacks, threads, tasks, and the exceptions that are being handled."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from leakguard.references.kinds import is_own_code, name_of
from leakguard.references.values import namespace_of, string_at


def task_types() -> tuple[type, ...]:
    """The classes of asyncio's tasks, if asyncio is in use."""
    found = []
    for module_name in ("_asyncio", "asyncio.tasks"):
        module = sys.modules.get(module_name)
        for name in ("Task", "_PyTask"):
            kind = vars(module).get(name) if module is not None else None
            if type(kind) is type:
                found.append(kind)
    return tuple(found)


def running_stacks() -> list[tuple[int, FrameType]]:
    """The innermost frame of each thread, leakguard's own left out: a frame that has itself as a local never dies."""
    found: list[tuple[int, FrameType]] = []
    for ident, innermost in sys._current_frames().items():
        frame: FrameType | None = innermost
        del innermost
        while frame is not None and is_own_code(frame.f_code):
            frame = frame.f_back
        if frame is not None and not _is_traced(frame):
            found.append((ident, frame))
    return found


def _is_traced(frame: FrameType | None) -> bool:
    """Whether a debugger written in Python has stopped this thread. Before Python 3.13, it writes its own copy of the
    locals back when it goes on: what a look at them changes in that copy would be changed in the program."""
    if sys.version_info >= (3, 13):
        return False
    while frame is not None:
        if frame.f_trace is not None and name_of(type(frame.f_trace)) != "CTracer":  # coverage's, which does not
            return True
        frame = frame.f_back
    return False


def thread_names() -> dict[int, str]:
    """The names of the threads that `threading` knows, by ident, without its lock."""
    import threading

    names: dict[int, str] = {}
    for ident, thread in list(threading._active.items()):  # type: ignore[attr-defined]
        name = string_at(namespace_of(thread) or {}, "_name")
        if name is not None:
            names[ident] = name
    return names


def handled_errors() -> list[tuple[int, BaseException]]:
    """The exception that each thread is handling right now."""
    found: list[tuple[int, BaseException]] = []
    for ident, entry in sys._current_exceptions().items():
        error: Any = entry[1] if type(entry) is tuple else entry  # a triple before Python 3.12
        if error is not None:
            found.append((ident, error))
    return found
