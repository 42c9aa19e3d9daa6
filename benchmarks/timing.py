"""Timing: one operation under several variants, in turns; below a stack of a given depth, or from many workers."""

from __future__ import annotations

import asyncio
import math
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

Operation = Callable[[], object]
AsyncOperation = Callable[[], Awaitable[object]]
Taken = tuple[float, float]
"""What one operation took: seconds, and seconds of processor time of the whole process that ran it."""
Measure = Callable[[int], Taken]
"""Runs an operation about so many times, and says what one of them took."""
Name = TypeVar("Name", bound=Hashable)

WARM_UP = 20
"""Operations before the clock starts: more than a site gets full stacks for, and enough for the interpreter."""
RUNS = 15
"""Runs of which the quickest counts: what slows one down is some other program. They are short, so that some of them
fit between two interruptions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much to measure: `repeats` rounds of all variants, each variant for about `seconds`."""

    repeats: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The medians over all rounds, and the best of them. `ratio`, `added` and `added_cpu` compare with the first
    variant of the same round."""

    seconds: float
    best: float
    cpu: float
    ratio: float
    added: float
    added_cpu: float


def compare(measures: Mapping[Name, Measure], plan: Plan) -> dict[Name, Timing]:
    """Measure all variants in turns (A B C, A B C, ...), so that whatever slows the machine down slows them alike."""
    taken: dict[Name, list[Taken]] = {name: [] for name in measures}
    times: dict[Name, int] = {}
    for turn in range(plan.repeats + 1):
        for name, measure in measures.items():
            if turn == 0:  # not counted: it only tells how many operations fill the time
                times[name] = max(2 * RUNS, round(plan.seconds / measure(2 * RUNS)[0]))
            else:
                taken[name].append(measure(times[name]))
    base = next(iter(taken.values()))
    return {name: _timing(found, base) for name, found in taken.items()}


def _timing(found: Sequence[Taken], base: Sequence[Taken]) -> Timing:
    pairs = list(zip(found, base, strict=True))
    return Timing(
        seconds=statistics.median(seconds for seconds, _ in found),
        best=min(seconds for seconds, _ in found),
        cpu=statistics.median(cpu for _, cpu in found),
        ratio=statistics.median(one[0] / other[0] for one, other in pairs),
        added=statistics.median(one[0] - other[0] for one, other in pairs),
        added_cpu=statistics.median(one[1] - other[1] for one, other in pairs),
    )


class Runner(Protocol):
    """Runs the operations of a subject."""

    def time(self, operation: Operation, depth: int, times: int) -> Taken:
        """What one operation takes below a stack of `depth` frames."""

    def load(self, operation: Operation, workers: int, times: int) -> Taken:
        """The time of `times` operations by so many workers at once, divided by their number."""


class InThreads:
    """Runs ordinary functions. Its workers are threads."""

    def time(self, operation: Operation, depth: int, times: int) -> Taken:
        """What one operation takes below a stack of `depth` frames."""
        each = max(1, times // RUNS)

        def block() -> Taken:
            for _ in range(WARM_UP):
                operation()
            quickest = least = math.inf
            for _ in range(RUNS):
                begin, begin_cpu = time.perf_counter(), time.process_time()
                for _ in range(each):
                    operation()
                least = min(least, time.process_time() - begin_cpu)
                quickest = min(quickest, time.perf_counter() - begin)
            return quickest / each, least / each

        def descend(levels: int) -> Taken:
            return block() if levels <= 1 else descend(levels - 1)

        return descend(depth - 1)

    def load(self, operation: Operation, workers: int, times: int) -> Taken:
        """The time of `times` operations by so many threads at once, divided by their number."""
        each = math.ceil(times / workers)
        errors: list[BaseException] = []
        start = threading.Barrier(workers + 1)

        def work() -> None:
            try:
                operation()  # what a thread costs at its first acquire is not what is asked
                start.wait()
                for _ in range(each):
                    operation()
            except BaseException as error:
                errors.append(error)
                start.abort()

        threads = [threading.Thread(target=work) for _ in range(workers)]
        for thread in threads:
            thread.start()
        try:
            start.wait()
        except threading.BrokenBarrierError:
            pass  # the error that broke it is raised below
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.join()
        taken, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        if errors:
            raise errors[0]
        return taken / (each * workers), cpu / (each * workers)


class InLoop:
    """Runs coroutine functions in one event loop. Its workers are tasks."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner

    def time(self, operation: Operation, depth: int, times: int) -> Taken:
        """What one operation takes below a stack of coroutines that await each other."""
        coroutine = cast("AsyncOperation", operation)
        each = max(1, times // RUNS)

        async def block() -> Taken:
            for _ in range(WARM_UP):
                await coroutine()
            quickest = least = math.inf
            for _ in range(RUNS):
                begin, begin_cpu = time.perf_counter(), time.process_time()
                for _ in range(each):
                    await coroutine()
                least = min(least, time.process_time() - begin_cpu)
                quickest = min(quickest, time.perf_counter() - begin)
            return quickest / each, least / each

        async def descend(levels: int) -> Taken:
            return await (block() if levels <= 1 else descend(levels - 1))

        return self._runner.run(descend(depth - 1))

    def load(self, operation: Operation, workers: int, times: int) -> Taken:
        """The time of `times` operations by so many tasks at once, divided by their number.

        A task's first acquire is counted: where each request is a task, that is what a request does.
        """
        coroutine = cast("AsyncOperation", operation)
        each = math.ceil(times / workers)

        async def work() -> None:
            for _ in range(each):
                await coroutine()

        async def all_of_them() -> Taken:
            begin, begin_cpu = time.perf_counter(), time.process_time()
            await asyncio.gather(*(work() for _ in range(workers)))
            taken, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
            return taken / (each * workers), cpu / (each * workers)

        return self._runner.run(all_of_them())
