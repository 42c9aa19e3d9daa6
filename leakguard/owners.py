"""Who acquires: the running asyncio task, else the thread. And whether that one is still there.

The end of a thread is seen through an anchor, an object that lives in a `threading.local` and so dies with its
thread: no polling, no thread object kept alive, and it works for threads that `threading` did not start. The end of a
task is asked of the task through a weak reference, because a done callback would be visible to the application.
"""

from __future__ import annotations

import sys
import threading
import weakref
from _thread import get_ident
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from leakguard.clock import Clock

if TYPE_CHECKING:
    import asyncio

    from leakguard.records import HoldRecord

    Task: TypeAlias = asyncio.Task[Any]  # a task of any result: only its identity and its end matter here


class OwnerRecord:
    """One thread or one task that has acquired something. `open` are the holds that it owns now, by serial;
    `began_at` is when it last began to acquire, where a meter wants to know."""

    __slots__ = ("__weakref__", "began_at", "ended_at", "ident", "name", "open", "task_name", "task_ref")

    def __init__(self, ident: int, name: str | None, task: Task | None) -> None:
        self.ident = ident
        self.name = name
        self.task_name = task.get_name() if task is not None else None
        self.task_ref: weakref.ref[Task] | None = None
        self.began_at = 0.0
        self.ended_at: float | None = None
        self.open: dict[int, HoldRecord] = {}

    @property
    def task(self) -> Task | None:
        """The task, if this owner is one and it still exists."""
        return self.task_ref() if self.task_ref is not None else None

    @property
    def label(self) -> str:
        """How a sentence names it: ``task "export"`` or ``thread "worker-1"``."""
        return f'task "{self.task_name}"' if self.task_ref is not None else f'thread "{self.name}"'

    def look(self, now: float) -> float | None:
        """When it ended, as far as can be told: None while it lives. A task's end is the time of the first look."""
        if self.ended_at is None and self.task_ref is not None:
            task = self.task_ref()
            if task is None or task.done():
                self.ended_at = now
        return self.ended_at


class _Anchor:
    __slots__ = ("__weakref__", "owner")

    def __init__(self, owner: OwnerRecord) -> None:
        self.owner = owner


class _AnchorRef(weakref.ref[_Anchor]):
    __slots__ = ("owner",)
    owner: OwnerRecord


class Owners:
    """The owners of this process. Thread-safe; `current()` takes no lock."""

    __slots__ = ("_anchors", "_clock", "_current_task", "_local", "_running_loop", "_tasks")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running_loop: Callable[[], asyncio.AbstractEventLoop | None] | None = None
        self._current_task: Callable[[asyncio.AbstractEventLoop], Task | None] | None = None
        if "asyncio" in sys.modules:
            self.enable_asyncio()
        self.forget()

    def forget(self) -> None:
        """Start afresh: what a forked child does with its parent's owners."""
        self._local = threading.local()
        self._tasks: dict[int, OwnerRecord] = {}
        self._anchors: dict[int, _AnchorRef] = {}

    def enable_asyncio(self) -> None:
        """Begin to tell tasks apart; called once asyncio has been imported, which leakguard itself never does."""
        from asyncio import _get_running_loop, current_task

        self._current_task = current_task
        self._running_loop = _get_running_loop

    def current(self) -> OwnerRecord:
        """The running task if there is one, else the running thread."""
        running_loop = self._running_loop
        if running_loop is not None:
            loop = running_loop()
            if loop is not None:
                assert self._current_task is not None
                task = self._current_task(loop)
                if task is not None:
                    return self.of(task)
        try:
            anchor: _Anchor = self._local.anchor
        except AttributeError:
            return self._new_thread()
        return anchor.owner

    def of(self, task: Task) -> OwnerRecord:
        """The owner that a task is."""
        owner = self._tasks.get(id(task))
        if owner is not None and owner.task_ref is not None and owner.task_ref() is task:
            return owner
        return self._new_task(task)

    def _new_thread(self) -> OwnerRecord:
        ident = get_ident()
        # Not current_thread(): for a thread that threading did not start it would register a dummy for good.
        thread = threading._active.get(ident)  # type: ignore[attr-defined]
        owner = OwnerRecord(ident, thread.name if thread is not None else f"Thread-{ident}", None)
        anchor = _Anchor(owner)
        ref = _AnchorRef(anchor, self._thread_ended)
        ref.owner = owner
        self._anchors[id(owner)] = ref  # a weak reference that is itself collected calls nobody
        self._local.anchor = anchor
        return owner

    def _thread_ended(self, ref: weakref.ref[_Anchor]) -> None:
        # Runs while the thread is being torn down, or inside any allocation: no lock, no I/O, no exception.
        assert isinstance(ref, _AnchorRef)
        ref.owner.ended_at = self._clock.monotonic()
        self._anchors.pop(id(ref.owner), None)

    def _new_task(self, task: Task) -> OwnerRecord:
        thread = threading._active.get(get_ident())  # type: ignore[attr-defined]
        owner = OwnerRecord(get_ident(), thread.name if thread is not None else None, task)
        tasks, key = self._tasks, id(task)

        def collected(_: object) -> None:
            # The id cannot have been reused: this runs before the task's memory is given back.
            tasks.pop(key, None)

        owner.task_ref = weakref.ref(task, collected)
        tasks[key] = owner
        return owner


def is_alive(owner: OwnerRecord) -> bool | None:
    """Whether the owner still runs; None where it cannot be told (a task that its closed loop left unfinished)."""
    if owner.ended_at is not None:
        return False
    if owner.task_ref is not None:
        task = owner.task_ref()
        if task is None or task.done():
            return False
        return None if task.get_loop().is_closed() else True
    return True
