"""The public questions and promises: no_leaks(), allow(), expect_long(), label()."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import leakguard
from leakguard import ConnectionLeakError, SettingsError, UnsupportedError, no_leaks
from leakguard.testing import FakeTime, Recorder, fake_time
from tests.core.support import Connection, Pool, connect, hold_of, in_thread


@pytest.fixture
def time() -> Iterator[FakeTime]:
    """leakguard on a fake clock."""
    with fake_time() as time:
        yield time


@pytest.fixture
def pool(time: FakeTime) -> Pool:
    """A pool of plain objects."""
    return Pool(time.runtime.tracker)


def kinds_of(error: ConnectionLeakError) -> list[str]:
    """What an exception reports."""
    return [leak.kind for leak in error.leaks]


# --------------------------------------------------------------------------------------------------------- no_leaks


def test_a_block_that_gives_everything_back_passes(pool: Pool) -> None:
    """The clean twin of all that follows."""
    with no_leaks():
        pool.putconn(pool.getconn())


def test_a_block_that_still_holds_raises(pool: Pool) -> None:
    """With the line that acquired, and the boundary."""
    kept = []
    with pytest.raises(ConnectionLeakError) as raised, no_leaks():
        kept.append(pool.getconn())
    (leak,) = raised.value.leaks
    assert (leak.kind, leak.certain, leak.boundary) == ("outstanding", True, "no_leaks")
    assert leak.site is not None
    assert leak.site.file == __file__
    assert "kept.append(pool.getconn())" in str(raised.value)


def test_a_block_that_drops_raises(pool: Pool) -> None:
    """What was garbage-collected meanwhile, or is collected at the end."""
    with pytest.raises(ConnectionLeakError) as raised, no_leaks():
        pool.getconn()
    assert kinds_of(raised.value) == ["dropped"]


def test_a_direct_connection_that_stays_open_raises(time: FakeTime) -> None:
    """Every hold counts at this boundary."""
    kept = []
    with pytest.raises(ConnectionLeakError), no_leaks():
        kept.append(connect(time.runtime.tracker))


def test_it_works_without_install_and_leaves_nothing_behind(time: FakeTime, pool: Pool) -> None:
    """It instruments for its own duration."""
    with no_leaks():
        assert len(time.runtime.guards) == 1
    assert time.runtime.guards == []


def test_it_leaves_an_installed_guard_as_it_was(time: FakeTime, pool: Pool) -> None:
    """And that one's reporters are told, too."""
    recorder = Recorder()
    guard = leakguard.install(on_leak=recorder)
    kept = []
    with pytest.raises(ConnectionLeakError), no_leaks():
        kept.append(pool.getconn())
    assert time.runtime.guards == [guard]
    assert [leak.kind for leak in recorder.leaks] == ["outstanding"]
    assert leakguard.check() == []


def test_what_was_acquired_before_is_not_its_business(time: FakeTime, pool: Pool) -> None:
    """Neither held on, nor dropped inside."""
    leakguard.install(on_leak=Recorder())
    kept = [pool.getconn(), in_thread(pool.getconn)]
    with no_leaks():
        del kept[0]
        gc.collect()


def test_other_threads_count(pool: Pool) -> None:
    """With the default scope, whoever acquires meanwhile."""
    kept = []
    with pytest.raises(ConnectionLeakError), no_leaks():
        kept.append(in_thread(pool.getconn))


def test_scope_context_counts_only_its_own(pool: Pool) -> None:
    """Another thread's hold passes; its own, and that of a context that was copied inside, do not."""
    kept = []
    with no_leaks(scope="context"):
        kept.append(in_thread(pool.getconn))
    with pytest.raises(ConnectionLeakError), no_leaks(scope="context"):
        kept.append(pool.getconn())
    with pytest.raises(ConnectionLeakError), no_leaks(scope="context"):  # noqa: PT012 - the block
        context = contextvars.copy_context()
        kept.append(in_thread(lambda: context.run(pool.getconn)))


def test_scope_context_counts_what_it_dropped(pool: Pool) -> None:
    """Also a drop belongs to the context of its acquisition."""
    with pytest.raises(ConnectionLeakError) as raised, no_leaks(scope="context"):
        pool.getconn()
    assert kinds_of(raised.value) == ["dropped"]


def test_the_bodys_exception_wins_with_the_leaks_as_a_note(pool: Pool) -> None:
    """Nobody loses the real error."""
    kept = []
    with pytest.raises(ZeroDivisionError) as raised, no_leaks():  # noqa: PT012 - the block
        kept.append(pool.getconn())
        _ = 1 / 0
    (note,) = raised.value.__notes__
    assert "kept.append(pool.getconn())" in note


def test_a_body_that_raises_without_leaks_has_no_note(pool: Pool) -> None:
    """The clean twin."""
    with pytest.raises(ZeroDivisionError) as raised, no_leaks():
        _ = 1 / 0
    assert not hasattr(raised.value, "__notes__")


def test_each_of_two_nested_blocks_keeps_its_promise(pool: Pool) -> None:
    """What the inner block told is still held at the end of the outer one: once in each."""
    kept = []
    with pytest.raises(ConnectionLeakError) as outer, no_leaks():
        with pytest.raises(ConnectionLeakError) as inner, no_leaks():
            kept.append(pool.getconn())
    assert (len(inner.value.leaks), len(outer.value.leaks)) == (1, 1)


def test_an_outer_block_tells_what_the_inner_one_did_not_see(pool: Pool) -> None:
    """Acquired before the inner block: the outer one's business."""
    kept = []
    with pytest.raises(ConnectionLeakError) as raised, no_leaks():  # noqa: PT012 - the block
        kept.append(pool.getconn())
        with no_leaks():
            pass
    assert len(raised.value.leaks) == 1


def test_suspicions_do_not_raise(time: FakeTime, pool: Pool) -> None:
    """Overdue but given back in the end: no leak of the block."""
    with no_leaks():
        connection = pool.getconn()
        time.advance(100.0)
        pool.putconn(connection)


def test_an_orphan_inside_raises_once(time: FakeTime, pool: Pool) -> None:
    """Proven before the end: told as what it is, not as outstanding again."""
    kept = []
    with pytest.raises(ConnectionLeakError) as raised, no_leaks():  # noqa: PT012 - the block
        kept.append(in_thread(pool.getconn))
        time.advance(10.0)
    assert kinds_of(raised.value) == ["orphaned"]


def test_what_is_allowed_passes(time: FakeTime, pool: Pool) -> None:
    """Held on purpose."""
    with no_leaks():
        connection = pool.getconn()
        (hold,) = leakguard.holds()
        leakguard.allow(hold, "the leader's lock")
    assert connection is not None


def test_a_pool_that_was_made_and_dropped_inside_raises(time: FakeTime) -> None:
    """Unclosed pools count, of those that began inside."""
    with pytest.raises(ConnectionLeakError) as raised, no_leaks():  # noqa: PT012 - the block
        inner = Pool(time.runtime.tracker)
        inner.putconn(inner.getconn())
        del inner
        gc.collect()
    assert kinds_of(raised.value) == ["unclosed_pool"]


def test_a_pool_that_is_older_than_the_block_is_not_its_business(time: FakeTime) -> None:
    """The clean twin: made before, dropped inside."""
    leakguard.install(on_leak=Recorder())
    older = [Pool(time.runtime.tracker)]
    older[0].putconn(older[0].getconn())
    time.advance(1.0)
    with no_leaks():
        older.clear()
        gc.collect()


def test_it_decorates_a_function(pool: Pool) -> None:
    """Each call is a boundary of its own; name, signature and result stay."""

    @no_leaks()
    def export(keep: list[Connection] | None = None) -> str:
        """Export all."""
        connection = pool.getconn()
        if keep is None:
            pool.putconn(connection)
        else:
            keep.append(connection)
        return "done"

    assert export() == export() == "done"
    with pytest.raises(ConnectionLeakError):
        export([])
    kept: list[Connection] = []
    with pytest.raises(ConnectionLeakError):
        export(kept)
    assert export() == "done"
    assert (export.__name__, export.__doc__) == ("export", "Export all.")


async def test_it_decorates_a_coroutine_function(pool: Pool) -> None:
    """Which stays one."""

    @no_leaks(scope="context")
    async def export(keep: list[Connection] | None = None) -> str:
        await asyncio.sleep(0)
        connection = pool.getconn()
        if keep is None:
            pool.putconn(connection)
        else:
            keep.append(connection)
        return "done"

    assert inspect.iscoroutinefunction(export)
    assert await export() == "done"
    kept: list[Connection] = []
    with pytest.raises(ConnectionLeakError):
        await export(kept)


def test_a_recursive_decorated_function_tells_a_leak_once(pool: Pool) -> None:
    """Calls within calls are boundaries within boundaries."""
    kept = []

    @no_leaks()
    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            kept.append(pool.getconn())

    with pytest.raises(ConnectionLeakError) as raised:
        dive(3)
    assert len(raised.value.leaks) == 1


async def test_async_with(pool: Pool) -> None:
    """The same in a coroutine, with what its tasks acquire."""
    kept: list[Connection] = []

    async def work() -> None:
        kept.append(pool.getconn())

    async with no_leaks():
        pool.putconn(pool.getconn())
    with pytest.raises(ConnectionLeakError):
        async with no_leaks(scope="context"):
            await asyncio.create_task(work())


async def test_scope_context_leaves_other_tasks_alone(pool: Pool) -> None:
    """A task that was started outside is not the block's."""
    kept: list[Connection] = []
    go, done = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        await go.wait()
        kept.append(pool.getconn())
        done.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(other())
    async with no_leaks(scope="context"):
        go.set()
        await done.wait()
    task.cancel()
    assert len(kept) == 1


def test_one_object_is_entered_once_at_a_time(pool: Pool) -> None:
    """But may be used again afterwards."""
    block = no_leaks()
    with block:
        with pytest.raises(RuntimeError, match="entered already"):
            block.__enter__()
    with block:
        pass


@pytest.mark.parametrize("scope", ["thread", "", None])
def test_an_unknown_scope_is_refused(scope: Any) -> None:
    """With what is accepted."""
    with pytest.raises(SettingsError, match=r'"process".*"context"'):
        no_leaks(scope=scope)


def test_blocks_of_two_threads_do_not_disturb_each_other(pool: Pool) -> None:
    """Each with its own context."""
    barrier = threading.Barrier(2, timeout=10)
    results: list[str] = []
    kept = []

    def clean() -> None:
        with no_leaks(scope="context"):
            barrier.wait()
            pool.putconn(pool.getconn())
            barrier.wait()
        results.append("clean")

    def leaky() -> None:
        try:
            with no_leaks(scope="context"):
                barrier.wait()
                kept.append(pool.getconn())
                barrier.wait()
        except ConnectionLeakError:
            results.append("leaky")

    threads = [threading.Thread(target=target) for target in (clean, leaky)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == ["clean", "leaky"]


def test_overlapping_blocks_without_a_guard_share_one(time: FakeTime, pool: Pool) -> None:
    """The first to end takes nothing away from the other; the last one puts everything back."""
    kept = []
    first, second = no_leaks(), no_leaks()
    first.__enter__()
    second.__enter__()
    assert len(time.runtime.guards) == 1
    first.__exit__(None, None, None)
    kept.append(pool.getconn())
    with pytest.raises(ConnectionLeakError):
        second.__exit__(None, None, None)
    assert time.runtime.guards == []


def test_a_guard_of_one_pool_is_not_enough(time: FakeTime, pool: Pool) -> None:
    """`watch()` watches one pool; the block promises it of all of them."""
    watched = Pool(time.runtime.tracker, "watched")
    guard = time.runtime.watch(lambda one: one is watched, {"on_leak": Recorder()})
    kept = []
    with pytest.raises(ConnectionLeakError), no_leaks():
        kept.append(pool.getconn())
    with pytest.raises(ConnectionLeakError), no_leaks():
        kept.append(watched.getconn())
    assert time.runtime.guards == [guard]


def test_an_application_that_installs_itself_inside_stays_installed(time: FakeTime, pool: Pool) -> None:
    """With its own settings, not those of the block."""
    recorder = Recorder()
    with no_leaks():
        guard = leakguard.install(on_leak=recorder, threshold=7.0)
    assert time.runtime.guards == [guard]
    assert (guard.settings.threshold, guard.settings.on_leak) == (7.0, (recorder,))
    guard.uninstall()
    assert time.runtime.guards == []


# ------------------------------------------------------------------------------------------- label, expect_long, allow


def test_labels_are_put_on_what_is_acquired_inside(time: FakeTime, pool: Pool) -> None:
    """As text, added up where blocks are nested, for what is acquired inside alone."""
    leakguard.install(on_leak=Recorder())
    kept = [pool.getconn()]
    with leakguard.label(request=17):
        with leakguard.label(user="me"):
            kept.append(pool.getconn())
    assert [hold.owner.labels for hold in leakguard.holds()] == [{}, {"request": "17", "user": "me"}]
    assert len(kept) == 2


def test_expect_long_gives_its_holds_a_limit_of_their_own(time: FakeTime, pool: Pool) -> None:
    """Five minutes unless said otherwise; it decorates, too."""
    recorder = Recorder()
    leakguard.install(on_leak=recorder, threshold=60.0)

    @leakguard.expect_long("the nightly report")
    def acquire() -> Connection:
        return pool.getconn()

    kept = acquire()
    time.advance(299.0)
    assert recorder.leaks == []
    time.advance(1.0)
    assert [leak.kind for leak in recorder.leaks] == ["overdue"]
    assert kept is not None


@pytest.mark.parametrize("reason", ["", "  ", None, 3])
def test_a_reason_is_needed(reason: Any) -> None:
    """For whoever asks later."""
    with pytest.raises(ValueError, match=r"expect_long\(\) needs a reason"):
        with leakguard.expect_long(reason):
            pass
    with pytest.raises(ValueError, match=r"allow\(\) needs a reason"):
        leakguard.allow(Connection(), reason)


@pytest.mark.parametrize("threshold", [0, -1.0, float("inf"), float("nan"), True, "60", None])
def test_expect_long_takes_seconds_above_zero(threshold: Any) -> None:
    """Anything else is a SettingsError that names itself."""
    with pytest.raises(SettingsError, match=r"expect_long\(threshold="):
        with leakguard.expect_long("report", threshold=threshold):
            pass


@pytest.mark.parametrize("subject", ["text", b"bytes", 3, 1.5, None, {}, [], ()])
def test_allow_refuses_what_is_no_connection(subject: Any) -> None:
    """A TypeError, too."""
    with pytest.raises(UnsupportedError, match="takes a connection or a Hold"):
        leakguard.allow(subject, "on purpose")


def test_allow_takes_a_connection_or_a_hold_and_nothing_unknown(time: FakeTime, pool: Pool) -> None:
    """What leakguard does not watch needs no permission."""
    recorder = Recorder()
    leakguard.install(on_leak=recorder, threshold=10.0)
    kept = [pool.getconn(), in_thread(pool.getconn)]
    leakguard.allow(kept[0], "leader")
    leakguard.allow(leakguard.holds()[1], "listen")
    leakguard.allow(Connection(), "nobody knows it")
    time.advance(100.0)
    assert recorder.leaks == []
    assert hold_of(time.runtime.tracker, kept[0]).allowed == "leader"


def test_a_permission_ends_with_its_hold(time: FakeTime, pool: Pool) -> None:
    """The next hold of the same connection is judged again."""
    recorder = Recorder()
    leakguard.install(on_leak=recorder, threshold=10.0)
    connection = pool.getconn()
    leakguard.allow(connection, "leader")
    pool.putconn(connection)
    assert pool.getconn() is connection
    time.advance(10.0)
    assert [leak.kind for leak in recorder.leaks] == ["overdue"]


def test_watch_refuses_what_it_does_not_know() -> None:
    """With what it would take; a TypeError, too."""
    with pytest.raises(UnsupportedError, match=r"cannot watch builtins\.object"):
        leakguard.watch(object())
