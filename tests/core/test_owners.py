"""Owners: the running task, else the running thread, and how its end is seen."""

from __future__ import annotations

import _thread
import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from leakguard.register.owners import OwnerRecord, Owners, is_alive
from leakguard.testing import FakeClock
from tests.core.support import in_thread, wait_until


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still."""
    return FakeClock()


@pytest.fixture
def owners(clock: FakeClock) -> Owners:
    """A register of its own."""
    return Owners(clock)


def test_a_thread_is_one_owner(owners: Owners) -> None:
    """However often it acquires, with its name and ident; another thread is another owner."""
    mine = owners.current()
    assert owners.current() is mine
    assert (mine.ident, mine.name, mine.task_name) == (threading.get_ident(), "MainThread", None)
    assert mine.label == 'thread "MainThread"'
    other = in_thread(owners.current, name="worker-1")
    assert other is not mine
    assert other.label == 'thread "worker-1"'


def test_a_thread_that_is_only_starting_gets_its_name_later(owners: Owners) -> None:
    """The collector may run in it before `threading` has registered it, and a finalizer may ask who it is."""

    def starting() -> tuple[OwnerRecord, str | None, OwnerRecord]:
        me = threading._active.pop(threading.get_ident())  # type: ignore[attr-defined]
        early = owners.current()
        name = early.name
        threading._active[me.ident] = me  # type: ignore[attr-defined]
        return early, name, owners.current()

    early, name, later = in_thread(starting, name="export")
    assert name == f"Thread-{early.ident}"
    assert (later is early, later.name) == (True, "export")
    assert is_alive(early) is False


def test_the_end_of_a_thread_is_seen_at_once(owners: Owners, clock: FakeClock) -> None:
    """Without polling, at the time at which it ended."""
    clock.advance(5.0)
    ended = in_thread(owners.current)
    clock.advance(5.0)
    assert ended.ended_at == 1005.0
    assert ended.look(2000.0) == 1005.0
    assert is_alive(ended) is False


def test_a_living_thread_has_not_ended(owners: Owners) -> None:
    """The clean twin."""
    mine = owners.current()
    gc.collect()
    assert mine.look(2000.0) is None
    assert is_alive(mine) is True


def test_a_thread_that_threading_did_not_start_is_an_owner_too(owners: Owners) -> None:
    """Named by its ident, its end is seen, and no dummy thread is registered for good."""
    found: list[OwnerRecord] = []
    _thread.start_new_thread(lambda: found.append(owners.current()), ())
    wait_until(lambda: bool(found) and found[0].ended_at is not None)
    assert found[0].name == f"Thread-{found[0].ident}"
    dummies = [thread for thread in threading.enumerate() if isinstance(thread, threading._DummyThread)]
    assert found[0].ident not in {thread.ident for thread in dummies}


def test_a_reused_thread_ident_is_a_new_owner(owners: Owners) -> None:
    """The system gives the next thread the same ident; the owner is another one."""
    seen = [in_thread(owners.current) for _ in range(20)]
    assert len({id(owner) for owner in seen}) == 20
    assert all(owner.ended_at is not None for owner in seen)


def test_no_thread_is_kept_alive(owners: Owners) -> None:
    """Neither the thread object nor an anchor of one that has ended."""
    thread = threading.Thread(target=owners.current)
    thread.start()
    thread.join()
    ref = weakref.ref(thread)
    del thread
    gc.collect()
    assert ref() is None
    assert owners._anchors == {}


def test_each_task_is_an_owner(owners: Owners) -> None:
    """Two tasks of one thread are two owners; each keeps its own across awaits."""

    async def ask() -> list[OwnerRecord]:
        first = owners.current()
        await asyncio.sleep(0)
        return [first, owners.current()]

    async def main() -> list[list[OwnerRecord]]:
        return await asyncio.gather(asyncio.create_task(ask(), name="one"), asyncio.create_task(ask(), name="two"))

    one, two = asyncio.run(main())
    assert one[0] is one[1]
    assert two[0] is two[1]
    assert one[0] is not two[0]
    assert (one[0].task_name, two[0].label) == ("one", 'task "two"')
    assert one[0].name == "MainThread"


def test_a_callback_of_the_loop_belongs_to_the_thread(owners: Owners) -> None:
    """Where no task runs, the thread is the owner, also inside a loop."""
    found: list[OwnerRecord] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: found.append(owners.current()))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert found == [owners.current()]


async def test_the_end_of_a_task_is_the_first_look_after_it(owners: Owners) -> None:
    """A done callback would be visible to the application, so the task is asked."""

    async def ask() -> OwnerRecord:
        owner = owners.current()
        assert owner.look(1.0) is None
        assert is_alive(owner) is True
        return owner

    task = asyncio.create_task(ask())
    owner = await task
    assert owner.ended_at is None
    assert is_alive(owner) is False
    assert owner.look(7.0) == 7.0
    assert owner.look(9.0) == 7.0


async def test_a_cancelled_task_has_ended(owners: Owners) -> None:
    """However it ended."""
    found: list[OwnerRecord] = []

    async def ask() -> None:
        found.append(owners.current())
        await asyncio.sleep(60)

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found[0].look(3.0) == 3.0
    assert is_alive(found[0]) is False


async def test_a_task_is_kept_alive_by_nobody(owners: Owners) -> None:
    """One that was collected has ended, and its place in the register is free."""
    found: list[OwnerRecord] = []

    async def ask() -> None:
        found.append(owners.current())

    task = asyncio.create_task(ask())
    await task
    ref = weakref.ref(task)
    del task
    await asyncio.sleep(0)  # the loop's own handle still has it
    gc.collect()
    assert found[0].look(3.0) == 3.0
    assert ref() is None
    assert found[0].task is None
    assert is_alive(found[0]) is False
    assert all(owner is not found[0] for owner in owners._tasks.values())


async def test_a_recycled_task_id_is_not_the_old_task(owners: Owners) -> None:
    """The register looks at the task itself, never at its id alone."""
    mine = owners.current()

    async def nothing() -> None:
        pass

    other = asyncio.create_task(nothing())
    task = asyncio.current_task()
    mine.task_ref = weakref.ref(other)
    assert owners.current() is not mine
    assert owners.current().task is task
    await other


def test_a_task_of_a_closed_loop_cannot_be_told() -> None:
    """Neither running nor ended: its loop went away without finishing it."""
    owners = Owners(FakeClock())
    loop = asyncio.new_event_loop()
    found: list[OwnerRecord] = []

    async def ask() -> None:
        found.append(owners.current())
        await asyncio.Event().wait()

    task = loop.create_task(ask())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert is_alive(found[0]) is None
    task._log_destroy_pending = False  # type: ignore[attr-defined]  # this is what the test is about
    task.get_coro().close()  # type: ignore[union-attr]


def test_without_asyncio_there_are_threads_only() -> None:
    """leakguard never imports asyncio itself; it begins to tell tasks apart once somebody else did."""
    program = """
import sys
from leakguard.register.owners import Owners
from leakguard.clock import Clock
owners = Owners(Clock())
assert owners.current().task_ref is None
assert "asyncio" not in sys.modules
import asyncio
async def main():
    before = owners.current()
    owners.enable_asyncio()
    return before.task_ref, owners.current().task_ref
assert [ref is None for ref in asyncio.run(main())] == [True, False]
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_forgetting_begins_afresh(owners: Owners) -> None:
    """A forked child has owners of its own."""
    mine = owners.current()
    owners.forget()
    gc.collect()
    assert owners.current() is not mine
    assert owners.current() is owners.current()


@pytest.fixture
def gevent(owners: Owners) -> Iterator[Any]:
    """gevent, without patches, and a hub that is gone in the end."""
    module = pytest.importorskip("gevent")
    owners.enable_gevent()
    yield module
    module.get_hub().destroy()


def test_each_greenlet_is_an_owner(owners: Owners, gevent: Any) -> None:
    """By its name, in the thread that runs it; it keeps its own across switches."""

    def ask() -> list[OwnerRecord]:
        first = owners.current()
        gevent.sleep(0)
        return [first, owners.current()]

    greenlets = [gevent.spawn(ask) for _ in range(2)]
    one, two = (greenlet.get() for greenlet in greenlets)
    assert one[0] is one[1]
    assert two[0] is two[1]
    assert one[0] is not two[0]
    assert one[0].label == f'greenlet "{greenlets[0].name}"'
    assert (one[0].name, one[0].ident, one[0].task) == ("MainThread", threading.get_ident(), None)


def test_the_end_of_a_greenlet_is_the_first_look_after_it(owners: Owners, gevent: Any) -> None:
    """Finished, killed or collected; one that waits has not ended, and can be seen where it waits."""
    found: list[OwnerRecord] = []

    def wait() -> None:
        found.append(owners.current())
        gevent.sleep(60)

    greenlet = gevent.spawn(wait)
    gevent.sleep(0)
    (owner,) = found
    assert (owner.look(1.0), is_alive(owner)) == (None, True)
    frame = owner.frame()
    assert frame is not None
    while frame.f_back is not None:
        frame = frame.f_back
    assert frame.f_code is wait.__code__
    greenlet.kill()
    assert is_alive(owner) is False
    assert (owner.look(7.0), owner.look(9.0)) == (7.0, 7.0)
    del greenlet, frame
    gevent.sleep(0)  # the hub's own handle still has it
    gc.collect()
    assert all(known is not owner for known in owners._tasks.values())


def test_the_hub_and_other_peoples_greenlets_are_their_threads(owners: Owners, gevent: Any) -> None:
    """A callback of the hub has no greenlet of its own; SQLAlchemy's greenlets are a part of what started them."""
    import greenlet

    mine = owners.current()
    assert greenlet.greenlet(owners.current).switch() is mine
    found: list[OwnerRecord] = []
    gevent.get_hub().loop.run_callback(lambda: found.append(owners.current()))
    gevent.sleep(0)
    assert found == [mine]
    assert gevent.spawn_raw(lambda: found.append(owners.current())) is not None
    gevent.sleep(0)
    assert found[1] is not mine


def test_the_end_of_a_thread_of_anyios_says_nothing(owners: Owners) -> None:
    """AnyIO ends the threads that have been idle, and others go on with what was acquired there."""
    anyio = pytest.importorskip("anyio")

    async def ask() -> OwnerRecord:
        return await anyio.to_thread.run_sync(owners.current)

    assert anyio.run(ask).hired
    assert not in_thread(owners.current).hired
