"""Jobs: what an earlier one acquired in the same thread is not held by this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from leakguard.register.jobs import is_of_this_job
from leakguard.register.stacks import FrameRules, Place, RawStack, Recorder

Stacks = list[RawStack]


@pytest.fixture
def rules() -> FrameRules:
    """By which this file is the application."""
    rules = FrameRules()
    rules.places[__file__] = Place.APPLICATION
    return rules


def acquire(stacks: Stacks, rules: FrameRules) -> bool | None:
    """Remember the caller's stack the first time, then ask."""
    if stacks:
        return is_of_this_job(stacks[0], rules, 1)
    stacks.append(Recorder().capture_all(1)[1])
    return None


def twice_in_one_job(stacks: Stacks, rules: FrameRules) -> bool | None:
    acquire(stacks, rules)
    return acquire(stacks, rules)


def once(stacks: Stacks, rules: FrameRules) -> bool | None:
    return acquire(stacks, rules)


def in_executor(work: Callable[[], object]) -> object:
    with ThreadPoolExecutor(1) as executor:
        executor.submit(work).result()
        return executor.submit(work).result()


def in_anyio(work: Callable[[], object]) -> object:
    anyio = pytest.importorskip("anyio")

    async def main() -> object:
        await anyio.to_thread.run_sync(work)
        return await anyio.to_thread.run_sync(work)

    return anyio.run(main)


workers = pytest.mark.parametrize("do_twice", [in_executor, in_anyio])


@workers
def test_a_later_job_is_another_one(do_twice: Callable[..., object], rules: FrameRules) -> None:
    """Of the same function too: a dependency that runs for every request."""
    stacks: Stacks = []
    assert do_twice(lambda: once(stacks, rules)) is False


@workers
def test_a_job_that_has_gone_on_is_the_same(do_twice: Callable[..., object], rules: FrameRules) -> None:
    """It acquires again further down."""
    assert do_twice(lambda: twice_in_one_job([], rules)) is True


def test_a_thread_of_its_own_does_one_job(rules: FrameRules) -> None:
    """Whatever runs there: an event loop of a user interface calls back into it all the time."""
    stacks: Stacks = []
    once(stacks, rules)
    assert once(stacks, rules) is True
