"""A laboratory for the tests of the integrations: real libraries, a real server, a clock that moves when told to."""

from __future__ import annotations

import gc
import linecache
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import leakguard
from leakguard import runtime
from leakguard.clock import Clock
from leakguard.model import Event, Exhausted, Leak, Recovered, Summary

EPOCH = 1_700_000_000.0
MARK = "# LEAK"


class Lab:
    """One installed guard with a fake clock and no watchdog thread; everything that it tells is kept in `events`."""

    def __init__(self) -> None:
        self.moment = 1000.0
        self.events: list[Event] = []
        clock = Clock(monotonic=lambda: self.moment, wall=lambda: EPOCH + self.moment)
        self.runtime = runtime.Runtime(clock, threaded=False)
        self.guard: leakguard.Guard

    @property
    def tracker(self) -> Any:
        return self.runtime.tracker

    def advance(self, seconds: float) -> None:
        """Let time pass, with the watchdog's rounds in between as it would make them."""
        end = self.moment + seconds
        step = max(0.25, seconds / 200)
        self.runtime.beat()
        while self.moment < end:
            self.moment = min(end, self.moment + step)
            self.runtime.beat()

    def collect(self) -> None:
        """Have the collector come by, and the watchdog after it."""
        gc.collect()
        self.runtime.beat()

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def leaks(self) -> list[Leak]:
        return self.of(Leak)

    @property
    def kinds(self) -> list[str]:
        return [leak.kind for leak in self.leaks]

    @property
    def refusals(self) -> list[Exhausted]:
        return self.of(Exhausted)

    @property
    def recovered(self) -> list[Recovered]:
        return self.of(Recovered)

    def summary(self) -> Summary:
        return self.guard.summary()

    def only(self, kind: str, *, mark: str | None = MARK) -> Leak:
        """The one leak that was told, of this kind and at the line that carries the mark."""
        assert self.kinds == [kind], [f"{leak.kind}: {leak.reason} {leak.site}" for leak in self.leaks]
        leak = self.leaks[0]
        if mark is not None:
            assert leak.site is not None, leak
            assert mark in linecache.getline(leak.site.file, leak.site.line), leak.site
        return leak

    def nothing(self) -> None:
        """Nothing at all was told, now or however long one waits."""
        self.collect()
        self.advance(1000.0)
        self.collect()
        assert not self.events, self.events
        assert self.runtime.internal_errors == 0

    def counts(self) -> tuple[int, int, int, int]:
        """Acquired, released, held, leaked."""
        summary = self.summary()
        return summary.acquired, summary.released, summary.held, summary.leaked


@contextmanager
def laboratory(*, errors: int | None = 0, **settings: Any) -> Iterator[Lab]:
    """A lab with leakguard installed in it; `errors` of leakguard's own are expected, None for any number."""
    lab = Lab()
    previous = runtime.replace_current(lab.runtime)
    try:
        lab.guard = leakguard.install(**{"on_leak": lab.events.append, **settings})
        try:
            yield lab
        finally:
            lab.guard.uninstall()
        if errors is not None:
            assert lab.runtime.internal_errors == errors
    finally:
        runtime.replace_current(previous)


def in_thread(function: Callable[[], Any], name: str = "worker") -> Any:
    """Run `function` in a thread of its own that has ended on return; its result, or its exception."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    if errors:
        raise errors[0]
    return results[0]


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait, in real time and no longer than needed, for something that another thread or the server does."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.002)


def steady(pool: Any, out: int = 0) -> None:
    """Wait until a psycopg pool has all its connections but `out` of them at home."""
    until(lambda: _is_steady(pool, out), "the pool's workers")


def _is_steady(pool: Any, out: int) -> bool:
    stats = pool.get_stats()
    return bool(stats["pool_available"] == stats["pool_size"] - out and stats["pool_size"] >= pool.min_size)


async def auntil(condition: Callable[[], Any], what: str = "the condition") -> None:
    """The same as `until` in a task, while the others go on."""
    import asyncio

    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.001)


async def aactive() -> None:
    """Wait until a statement runs on the oldest hold; it does until the caller waits again."""
    await auntil(lambda: [hold.state for hold in leakguard.holds()][:1] == ["active"], "a statement that runs")


async def aheld(count: int = 1) -> None:
    """Wait until so much is held."""
    await auntil(lambda: len(leakguard.holds()) == count, "an acquire")


async def asteady(pool: Any, out: int = 0) -> None:
    """The same as `steady` for an asynchronous pool."""
    await auntil(lambda: _is_steady(pool, out), "the pool's workers")


def url_for(dsn: str, driver: str) -> str:
    """The URI as SQLAlchemy wants it, for ``psycopg`` or ``asyncpg``."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://", 1)
