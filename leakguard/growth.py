"""Does it grow? Runs a scenario several times, and fails only for what is more after every single round.

A cache that fills, a pool that opens its second connection and a listener that stays are no leaks: they stop growing.
What is more after each round never stops.
"""

from __future__ import annotations

import gc
import inspect
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, overload

from leakguard import runtime
from leakguard.errors import GrowthError
from leakguard.model import Site
from leakguard.records import PoolRecord

What = Literal["hold", "lost slot", "pool", "server connection"]

GRACE: Final = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
"""Seconds between the looks at something that has grown to the end: another thread may be about to give it back."""

Key: TypeAlias = "tuple[What, str, str]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """One thing that grew. `counts` are its numbers: before the first counted round, then after each one.

    `site` is the line that acquired the holds, or that created the pools or the pool in question.
    """

    what: What
    counts: tuple[int, ...]
    fingerprint: str
    library: str
    pool: str | None
    site: Site | None

    @property
    def per_round(self) -> tuple[int, int]:
        """The smallest and the largest step."""
        steps = [after - before for before, after in zip(self.counts, self.counts[1:], strict=False)]
        return min(steps), max(steps)


@overload
def assert_no_growth(
    fn: Callable[[], Awaitable[object]], *, rounds: int = ..., warmup: int = ...
) -> Awaitable[None]: ...
@overload
def assert_no_growth(fn: Callable[[], object], *, rounds: int = ..., warmup: int = ...) -> None: ...
def assert_no_growth(fn: Callable[[], object], *, rounds: int = 5, warmup: int = 1) -> Awaitable[None] | None:
    """Run `fn` `warmup` times, then `rounds` times; raise GrowthError for what is more after every one of the rounds.

    Counted are what is held (by the line that acquired it), the slots that pools have lost, pools with open server
    connections (by the line that created them), and the idle server connections of pools without a limit. Where `fn`
    returns an awaitable, so does this: ``await assert_no_growth(scenario)``. Works without `install()`. What `fn`
    raises propagates. Other threads' holds count too.
    """
    for name, value, least in (("rounds", rounds, 2), ("warmup", warmup, 0)):
        given: object = value
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ValueError(
                f"leakguard: assert_no_growth({name}={given!r}) is not accepted: a whole number, at least {least}"
            )
    with ExitStack() as stack:
        counter = _Counter(stack, rounds)
        first = fn()
        if inspect.isawaitable(first):
            return _continue(fn, first, counter, stack.pop_all(), rounds, warmup)
        for done in range(1, warmup + rounds + 1):
            if done >= warmup:
                counter.count()
            if done < warmup + rounds:
                fn()
        for pause in GRACE if counter.suspects() else ():
            time.sleep(pause)
            counter.count_again()
        counter.verdict()
    return None
