"""Does it grow? Runs a scenario several times, and fails only for what is more after every single round.

A cache that fills, a pool that opens its second connection and a listener that stays are no leaks: they stop growing.
What is more after each round never stops.
"""

from __future__ import annotations

import gc
import inspect
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias, cast, overload

from leakguard import runtime
from leakguard.errors import GrowthError
from leakguard.judging.judge import Finding
from leakguard.model import Leak, Site
from leakguard.register.records import PoolRecord
from leakguard.runtime import Runtime

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
        steps = [after - before for before, after in pairwise(self.counts)]
        return min(steps), max(steps)


# A function that returns an awaitable also is one that returns an object: the first that fits is taken.
@overload
def assert_no_growth(  # type: ignore[overload-overlap]
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
    with _counting(rounds) as counter:
        if not warmup:
            counter.count()
        for number in range(1, warmup + rounds + 1):
            result = fn()
            if inspect.isawaitable(result):
                if number == 1:  # nothing has run yet: it will, counted anew, when ours is awaited
                    return _assert_no_growth(fn, result, rounds, warmup)
                raise TypeError(
                    "leakguard: assert_no_growth() was given a function that returns an awaitable only sometimes"
                )
            if number >= warmup:
                counter.count()
        for pause in GRACE:
            if not counter.grown():
                break
            time.sleep(pause)
            counter.count(again=True)
        counter.verdict()
    return None


async def _assert_no_growth(fn: Callable[[], object], first: Awaitable[object], rounds: int, warmup: int) -> None:
    with _counting(rounds) as counter:
        if not warmup:
            counter.count()
        for number in range(1, warmup + rounds + 1):
            await (first if number == 1 else cast("Awaitable[object]", fn()))
            if number >= warmup:
                counter.count()
        for pause in GRACE:
            if not counter.grown():
                break
            await _sleep(pause)
            counter.count(again=True)
        counter.verdict()


async def _sleep(seconds: float) -> None:
    """Let the other tasks go on, where asyncio runs; under another loop, the threads at least."""
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)


# ------------------------------------------------------------------------------------------------------- counting


@contextmanager
def _counting(rounds: int) -> Iterator[_Counter]:
    current = runtime.current()
    with current.instrumented():
        counter = _Counter(current, rounds)
        with current.rounds.collecting(counter.collect):
            yield counter


class _Counter:
    def __init__(self, current: Runtime, rounds: int) -> None:
        self._runtime = current
        self._rounds = rounds
        self._first = current.tracker.last_serial()
        self._counts: list[dict[Key, int]] = []
        self._about: dict[Key, tuple[str, str | None, Site | None]] = {}
        self._lost: list[Finding] = []

    def collect(self, finding: Finding, _leak: Leak) -> None:
        """Remember what a pool has lost for good; called under the runtime's lock."""
        if finding.kind in ("dropped", "lost_slot") and not finding.healed and not finding.pool.direct:
            self._lost.append(finding)

    def count(self, *, again: bool = False) -> None:
        """Count everything now, instead of the last time if `again`."""
        gc.collect()
        self._runtime.rounds.work(everything=True)
        # Python 3.13 hands what is put on a queue to the thread that waits for it: let the watchdog take it over.
        time.sleep(0.001)
        self._runtime.rounds.work(everything=True)
        counts: Counter[Key] = Counter()
        tracker, snapshots = self._runtime.tracker, self._runtime.snapshots
        for hold in tracker.holds():
            if hold.allowed is None and hold.serial > self._first:
                key: Key = ("hold", snapshots.fingerprint(hold), hold.pool.name)
                self._about.setdefault(key, (hold.library, _name(hold.pool), snapshots.site(hold)))
                counts[key] += 1
        for finding in list(self._lost):
            key = ("lost slot", self._fingerprint(finding), finding.pool.name)
            site = snapshots.site(finding.hold) if finding.hold is not None else _created(finding.pool)
            self._about.setdefault(key, (finding.pool.library, finding.pool.name, site))
            counts[key] += 1
        for record in list(tracker.pools.values()):
            if record.wires and not record.disposed:
                self._count_pool(record, counts)
        if again:
            self._counts.pop()
        self._counts.append(dict(counts))

    def _count_pool(self, record: PoolRecord, counts: Counter[Key]) -> None:
        pool = record.pool()
        name = self._runtime.snapshots.pool_fingerprint(record)
        if pool is None or record.probe is None:
            return
        key: Key = ("pool", name, "")  # not by its own name: that is another one each time
        self._about.setdefault(key, (record.library, record.name, _created(record)))
        counts[key] += 1
        if record.probe.capacity(pool) is None:
            key = ("server connection", name, "")
            self._about.setdefault(key, (record.library, record.name, _created(record)))
            counts[key] += record.idle()

    def _fingerprint(self, finding: Finding) -> str:
        if finding.hold is not None:
            return self._runtime.snapshots.fingerprint(finding.hold)
        return self._runtime.snapshots.pool_fingerprint(finding.pool)

    def grown(self) -> list[Growth]:
        """What was more after every round, the largest first."""
        found: list[Growth] = []
        for key in self._counts[-1]:
            counts = tuple(one.get(key, 0) for one in self._counts)
            if all(after > before for before, after in pairwise(counts)):
                what, name, _ = key
                library, pool, site = self._about[key]
                found.append(Growth(what=what, counts=counts, fingerprint=name, library=library, pool=pool, site=site))
        pools = {one.fingerprint for one in found if one.what == "pool"}
        # Each new pool brings its connections along: that is one thing.
        found = [one for one in found if one.what != "server connection" or one.fingerprint not in pools]
        return sorted(found, key=lambda one: (-one.counts[-1] + one.counts[0], one.what, one.fingerprint))

    def verdict(self) -> None:
        """Raise for what has grown."""
        growths = self.grown()
        if growths:
            raise GrowthError(_text(growths, self._rounds), growths)


def _name(record: PoolRecord) -> str | None:
    return None if record.direct else record.name


def _created(record: PoolRecord) -> Site | None:
    return record.created.site() if record.created is not None else None


def _text(growths: Sequence[Growth], rounds: int) -> str:
    from leakguard.cures import cure
    from leakguard.prose.phrases import place, plural, shown

    lines = [f"{plural(len(growths), 'thing')} grew in each of {rounds} rounds:"]
    for growth in growths:
        low, high = growth.per_round
        step = f"+{low}" if low == high else f"+{low} to +{high}"
        of = (
            f' of pool "{shown(growth.pool)}"'
            if growth.pool is not None and growth.what in ("hold", "lost slot")
            else ""
        )
        noun = growth.what if high == 1 else f"{growth.what}s"
        lines += [
            "",
            f"  {step} {noun}{of} a round  {growth.fingerprint}  {place(growth.site)}",
            f"    counts: {', '.join(map(str, growth.counts))}",
        ]
        site = growth.site
        if site is None:
            continue
        made = "created" if growth.what in ("pool", "server connection") else "acquired"
        lines.append(f"    {made} in {shown(site.function)}, by {shown(growth.library)}:")
        if site.code:
            lines.append(f"        {site.code}")
        advice = cure(site.file, site.line, site.function, growth.library, "")
        if advice is not None:
            lines += [
                f"    {advice.sentence} Write instead:",
                *(f"        {line}" for line in advice.after.split("\n")),
            ]
    return "\n".join(lines)
