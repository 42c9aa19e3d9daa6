"""Which task waits for another one, through ``asyncio.wait_for()``, ``gather()`` or ``shield()``.

Before Python 3.12 ``wait_for(pool.getconn(), 5)`` runs the acquire in a task of its own, and ``gather()`` always does.
Such a task has no frame of the application and ends at once; who acquires is the task that waits for it. A task that
the application made itself, with ``create_task(pool.getconn())``, stays what it is: nobody knows whom it is for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from leakguard.register.stacks import FULL_DEPTH, RawStack

if TYPE_CHECKING:
    import asyncio

    Task: TypeAlias = asyncio.Task[Any]  # a task of any result


def awaiter_of(task: Task) -> Task | None:
    """The task that waits for `task` through one of asyncio's combinators; None if that cannot be told.

    Reads the done callbacks of the futures in between, which asyncio keeps in ``_callbacks``: where a loop's own kind
    of future has none, there is no answer.
    """
    for waiter in _combinators(task):
        for callback in _callbacks(waiter):
            parent = getattr(callback, "__self__", None)  # Task.__wakeup, in C or in Python
            if parent is not None and parent is not task and hasattr(parent, "get_coro"):
                return parent  # type: ignore[no-any-return]
    return None


def is_out_of_time(task: Task) -> bool:
    """Whether the `wait_for()` that waits for `task` has run out of time. False from Python 3.12 on, where it is made
    of an ``asyncio.timeout()``, in the very task that waits."""
    parent = awaiter_of(task) if sys.version_info < (3, 12) else None
    awaiting: Any = parent.get_coro() if parent is not None else None
    while awaiting is not None:
        frame = getattr(awaiting, "cr_frame", None)
        if frame is not None and frame.f_code is sys.modules["asyncio"].wait_for.__code__:
            waiter = frame.f_locals.get("waiter")
            return waiter is not None and waiter.done() and not waiter.cancelled()
        awaiting = getattr(awaiting, "cr_await", None)
    return False


def _combinators(task: Task) -> Iterator[object]:
    """The futures that `task`'s done callbacks complete: wait_for's waiter, gather's and shield's outer future."""
    for callback in _callbacks(task):
        if isinstance(callback, functools.partial):
            candidates: list[object] = list(callback.args)
        else:
            cells = getattr(callback, "__closure__", None) or ()
            candidates = [cell.cell_contents for cell in cells if _is_filled(cell)]
        yield from (one for one in candidates if one is not task and hasattr(one, "_callbacks"))


def _callbacks(future: object) -> list[object]:
    return [entry[0] for entry in getattr(future, "_callbacks", None) or ()]


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - asking is the test
    except ValueError:
        return False
    return True


def is_running(task: Task) -> bool:
    """Whether the task is the one that its loop runs at this moment: then its stack is that of its thread."""
    current_task: Callable[[object], object] = sys.modules["asyncio"].current_task
    return current_task(task.get_loop()) is task


def raw_stack_of_task(task: Task) -> RawStack:
    """The raw stack of a task that is suspended, innermost frame first: each coroutine and what it awaits.

    ``Task.get_stack()`` stops at the outermost frame of a suspended coroutine.
    """
    found: list[RawStack] = []
    awaiting: object = task.get_coro()
    while awaiting is not None and len(found) < FULL_DEPTH:
        frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "gi_frame", None)
        if not isinstance(frame, FrameType):
            break
        found.append((frame.f_code, frame.f_lasti))
        awaiting = getattr(awaiting, "cr_await", None) or getattr(awaiting, "gi_yieldfrom", None)
    return tuple(item for pair in reversed(found) for item in pair)
