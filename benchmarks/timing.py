"""Timing: one operation under several variants, in turns, below a stack of a given depth."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

Operation = Callable[[], object]
AsyncOperation = Callable[[], Awaitable[object]]
Variant = Callable[[], AbstractContextManager[Operation]]
"""Enters a way of running: bare, guarded, with a listener. Gives the operation to time in it."""
Taken = tuple[float, float]
"""What one operation took: seconds, and seconds of processor time of this whole process."""
Timer = Callable[[Operation, int, int], Taken]
"""Runs an operation so many times below a stack so deep."""

WARM_UP = 20
"""Operations before the clock starts: more than a site gets full stacks for, and enough for the interpreter."""
RUNS = 5
"""Runs of which the quickest counts: what slows one down is some other program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure: `repeats` rounds of all variants, each variant for about `seconds`."""

    repeats: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The medians over all rounds. All but `seconds` compare with the first variant of the same round."""

    seconds: float
    ratio: float
    added: float
    added_cpu: float


def time_sync(operation: Operation, depth: int, times: int) -> Taken:
    """The `Timer` of ordinary functions."""

    def block() -> Taken:
        for _ in range(WARM_UP):
            operation()
        quickest = least = math.inf
        for _ in range(RUNS):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                operation()
            least = min(least, time.process_time() - begin_cpu)
            quickest = min(quickest, time.perf_counter() - begin)
        return quickest / times, least / times

    def descend(levels: int) -> Taken:
        return block() if levels <= 1 else descend(levels - 1)

    return descend(depth - 1)


async def time_async(operation: AsyncOperation, depth: int, times: int) -> Taken:
    """The same for coroutine functions; the stack is one of coroutines that await each other."""

    async def block() -> Taken:
        for _ in range(WARM_UP):
            await operation()
        quickest = least = math.inf
        for _ in range(RUNS):
            begin, begin_cpu = time.perf_counter(), time.process_time()
            for _ in range(times):
                await operation()
            least = min(least, time.process_time() - begin_cpu)
            quickest = min(quickest, time.perf_counter() - begin)
        return quickest / times, least / times

    async def descend(levels: int) -> Taken:
        return await (block() if levels <= 1 else descend(levels - 1))

    return await descend(depth - 1)


def compare(variants: Mapping[str, Variant], timer: Timer, depth: int, plan: Plan) -> dict[str, Timing]:
    """Time all variants in turns (A B C, A B C, ...), so that whatever slows the machine down slows them alike."""
    taken: dict[str, list[Taken]] = {name: [] for name in variants}
    times: dict[str, int] = {}
    for turn in range(plan.repeats + 1):
        for name, enter in variants.items():
            with enter() as operation:
                if turn == 0:  # not counted: it only tells how many operations fill the time
                    times[name] = max(5, round(plan.seconds / RUNS / timer(operation, depth, 10)[0]))
                else:
                    taken[name].append(timer(operation, depth, times[name]))
    base = next(iter(taken.values()))
    return {name: _timing(found, base) for name, found in taken.items()}


def _timing(found: Sequence[Taken], base: Sequence[Taken]) -> Timing:
    pairs = list(zip(found, base, strict=True))
    return Timing(
        seconds=statistics.median(seconds for seconds, _ in found),
        ratio=statistics.median(one[0] / other[0] for one, other in pairs),
        added=statistics.median(one[0] - other[0] for one, other in pairs),
        added_cpu=statistics.median(one[1] - other[1] for one, other in pairs),
    )
