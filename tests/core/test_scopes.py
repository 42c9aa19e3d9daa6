"""Scopes: what the running context says about the holds acquired in it."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from leakguard.register.scopes import NO_SCOPE, LongHold, current_scope, entered
from tests.core.support import in_thread

LONG = LongHold(reason="nightly report", threshold=300.0)


def test_outside_every_block_nothing_is_said() -> None:
    """No labels, no test, no limit, no boundary."""
    assert current_scope.get() is NO_SCOPE
    assert (NO_SCOPE.labels, NO_SCOPE.test, NO_SCOPE.long, NO_SCOPE.boundaries) == ({}, None, None, frozenset())


def test_nested_blocks_add_up_and_end() -> None:
    """What is not given stays as it is; the inner one wins; leaving restores."""
    with entered(labels={"a": "1", "b": "1"}, test="outer", long=LONG, boundary=1):
        outer = current_scope.get()
        with entered(labels={"b": "2"}, boundary=2):
            inner = current_scope.get()
            assert inner.labels == {"a": "1", "b": "2"}
            assert (inner.test, inner.long, inner.boundaries) == ("outer", LONG, {1, 2})
        with entered(test="inner", long=LongHold(reason="x", threshold=1.0)):
            assert current_scope.get().test == "inner"
            assert current_scope.get().long == LongHold(reason="x", threshold=1.0)
        assert current_scope.get() is outer
    assert current_scope.get() is NO_SCOPE


def test_a_block_that_raises_ends_too() -> None:
    """The exception passes."""
    with pytest.raises(ZeroDivisionError), entered(test="x"):
        _ = 1 / 0
    assert current_scope.get() is NO_SCOPE


def test_tasks_and_copied_contexts_carry_it_along_and_threads_do_not() -> None:
    """As contextvars do."""

    async def ask() -> str | None:
        return current_scope.get().test

    async def main() -> str | None:
        with entered(test="mine"):
            task = asyncio.create_task(ask())
        return await task

    assert asyncio.run(main()) == "mine"
    with entered(test="mine"):
        context = contextvars.copy_context()
        assert in_thread(lambda: current_scope.get().test) is None
    assert in_thread(lambda: context.run(lambda: current_scope.get().test)) == "mine"
