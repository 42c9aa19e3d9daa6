"""Who acquires: the running asyncio task or gevent greenlet, else the thread. And whether that one is still there.

The end of a thread is seen through an anchor, an object that lives in its thread-local storage and so dies with it: no
polling, no thread object kept alive, and it works for threads that `threading` did not start. The end of a task or
greenlet is asked of it through a weak reference, because a done callback would be visible to the application.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from leakguard.clock import Clock
from leakguard.process.native import Local, get_ident

if TYPE_CHECKING:
    import asyncio

    from leakguard.register.records import HoldRecord

    Task: TypeAlias = asyncio.Task[Any]  # a task of any result: only its identity and its end matter here


class Greenlet(Protocol):
    """What is asked of a greenlet; those of ``spawn_raw()`` have no more in common with the others."""

    @property
    def dead(self) -> bool:
        """Whether it has finished."""

    @property
    def parent(self) -> object:
        """The greenlet that goes on when it ends: for gevent's own, the hub."""

    @property
    def gr_frame(self) -> FrameType | None:
        """Where it is suspended; None while it runs."""


class OwnerRecord:
    """One thread, task or greenlet that has acquired something. `open` are the holds that it owns now, by serial;
    `began_at` is when it last began to acquire, where a meter wants to know. The end of one that is `hired` says
    nothing: AnyIO's threads do other people's work, and end when there was none for a while."""

    __slots__ = (
        "__weakref__",
        "began_at",
        "ended_at",
        "greenlet_ref",
        "hired",
        "ident",
        "name",
        "open",
        "task_name",
        "task_ref",
    )

    def __init__(self, ident: int, name: str | None, task_name: str | None = None) -> None:
        self.ident = ident
        self.name = name
        self.task_name = task_name
        self.task_ref: weakref.ref[Task] | None = None
        self.greenlet_ref: weakref.ref[Greenlet] | None = None
        self.hired = False
        self.began_at = 0.0
        self.ended_at: float | None = None
        self.open: dict[int, HoldRecord] = {}

    @property
    def task(self) -> Task | None:
        """The task, if this owner is one and it still exists."""
        return self.task_ref() if self.task_ref is not None else None

    @property
    def label(self) -> str:
        """How a sentence names it: ``task "export"``, ``greenlet "Greenlet-7"`` or ``thread "worker-1"``."""
        if self.task_name is None:
            return f'thread "{self.name}"'
        return f'{"task" if self.greenlet_ref is None else "greenlet"} "{self.task_name}"'

    def look(self, now: float) -> float | None:
        """When it ended, as far as can be told: None while it lives. A task's end is the time of the first look."""
        if self.ended_at is None and self.is_over():
            self.ended_at = now
        return self.ended_at

    def is_over(self) -> bool:
        """Whether the task or greenlet has finished, or is gone. False for a thread, whose end announces itself."""
        if self.task_ref is not None:
            task = self.task_ref()
            return task is None or task.done()
        if self.greenlet_ref is not None:
            greenlet = self.greenlet_ref()
            return greenlet is None or greenlet.dead
        return False

    def frame(self) -> FrameType | None:
        """Where the thread or greenlet stands at this moment; None if it has ended."""
        greenlet = self.greenlet_ref() if self.greenlet_ref is not None else None
        suspended = greenlet.gr_frame if greenlet is not None else None
        return suspended if suspended is not None else sys._current_frames().get(self.ident)


class _Anchor:
    __slots__ = ("__weakref__", "owner")

    def __init__(self, owner: OwnerRecord) -> None:
        self.owner = owner


class _AnchorRef(weakref.ref[_Anchor]):
    __slots__ = ("owner",)
    owner: OwnerRecord


class Owners:
    """The owners of this process. Thread-safe; `current()` takes no lock."""

    __slots__ = (
        "_anchors",
        "_clock",
        "_current_greenlet",
        "_current_task",
        "_hub",
        "_local",
        "_running_loop",
        "_tasks",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running_loop: Callable[[], asyncio.AbstractEventLoop | None] | None = None
        self._current_task: Callable[[asyncio.AbstractEventLoop], Task | None] | None = None
        self._hub: type[object] | None = None
        self._current_greenlet: Callable[[], Greenlet] | None = None
        if "asyncio" in sys.modules:
            self.enable_asyncio()
        self.forget()

    def forget(self) -> None:
        """Start afresh: what a forked child does with its parent's owners."""
        self._local = Local()
        self._tasks: dict[int, OwnerRecord] = {}  # and greenlets, by id
        self._anchors: dict[int, _AnchorRef] = {}

    def enable_asyncio(self) -> None:
        """Begin to tell tasks apart; called once asyncio has been imported, which leakguard itself never does."""
        from asyncio import _get_running_loop, current_task

        self._current_task = current_task
        self._running_loop = _get_running_loop

    def enable_gevent(self) -> None:
        """Begin to tell greenlets apart; called once ``gevent.hub`` has been imported."""
        from gevent.hub import Hub
        from greenlet import getcurrent

        self._current_greenlet = getcurrent
        self._hub = Hub

    def current(self) -> OwnerRecord:
        """The running task or greenlet if there is one, else the running thread."""
        running_loop = self._running_loop
        if running_loop is not None:
            loop = running_loop()
            if loop is not None:
                assert self._current_task is not None
                task = self._current_task(loop)
                if task is not None:
                    return self.of(task)
        if self._hub is not None:
            assert self._current_greenlet is not None
            greenlet = self._current_greenlet()
            # gevent's own hang from its hub. The others, such as SQLAlchemy's, are a part of what started them.
            if isinstance(greenlet.parent, self._hub):
                return self._of_greenlet(greenlet)
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
        owner = OwnerRecord(get_ident(), _thread_name(), task.get_name())
        owner.task_ref = weakref.ref(task, self._remember(id(task), owner))
        return owner

    def _of_greenlet(self, greenlet: Greenlet) -> OwnerRecord:
        owner = self._tasks.get(id(greenlet))
        if owner is not None and owner.greenlet_ref is not None and owner.greenlet_ref() is greenlet:
            return owner
        thread = threading._active.get(id(greenlet))  # type: ignore[attr-defined]
        if thread is not None and not isinstance(thread, threading._DummyThread):
            owner = OwnerRecord(get_ident(), thread.name)  # the application started it as a thread
        else:
            name = getattr(greenlet, "name", None) or f"greenlet-{id(greenlet):x}"
            owner = OwnerRecord(get_ident(), _thread_name(), name)
        owner.greenlet_ref = weakref.ref(greenlet, self._remember(id(greenlet), owner))
        return owner

    def _remember(self, key: int, owner: OwnerRecord) -> Callable[[object], None]:
        """Find `owner` by this id from now on; returns what forgets it, for the weak reference to whom the id names."""
        tasks = self._tasks
        tasks[key] = owner

        def collected(_: object) -> None:
            # The id cannot have been reused: this runs before the memory is given back.
            tasks.pop(key, None)

        return collected

    def _new_thread(self) -> OwnerRecord:
        ident, name = get_ident(), _thread_name()
        anchor: _Anchor | None = getattr(self._local, "nameless", None)
        if anchor is None:
            anchor = _Anchor(OwnerRecord(ident, f"Thread-{ident}"))
            ref = _AnchorRef(anchor, self._thread_ended)
            ref.owner = anchor.owner
            self._anchors[id(anchor.owner)] = ref  # a weak reference that is itself collected calls nobody
        owner = anchor.owner
        if name is None:
            # One that `threading` did not start; or one that it has not registered yet, in which the collector closes
            # what another thread left. Then it has its name the next time, when it acquires something of its own.
            self._local.nameless = anchor
        else:
            owner.name = name
            owner.hired = type(threading._active.get(ident)).__module__.startswith("anyio.")  # type: ignore[attr-defined]
            self._local.anchor = anchor
        return owner

    def _thread_ended(self, ref: weakref.ref[_Anchor]) -> None:
        # Runs while the thread is being torn down, or inside any allocation: no lock, no I/O, no exception.
        assert isinstance(ref, _AnchorRef)
        ref.owner.ended_at = self._clock.monotonic()
        self._anchors.pop(id(ref.owner), None)


def _thread_name() -> str | None:
    """The name of the running thread; None where `threading` does not know it."""
    # Not current_thread(): for a thread that threading did not start it would register a dummy for good.
    thread = threading._active.get(get_ident())  # type: ignore[attr-defined]
    if thread is None and threading.get_native_id() == os.getpid():
        return threading.main_thread().name  # gevent has registered it under another ident
    return thread.name if thread is not None else None


def is_alive(owner: OwnerRecord) -> bool | None:
    """Whether the owner still runs; None where it cannot be told (a task that its closed loop left unfinished)."""
    if owner.ended_at is not None or owner.is_over():
        return False
    task = owner.task
    return None if task is not None and task.get_loop().is_closed() else True
