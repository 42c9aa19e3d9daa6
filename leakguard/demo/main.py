"""``leakguard demo``: opens the shop, lets the planted bugs happen, and shows what leakguard says about them."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psycopg_pool import PoolTimeout
from sqlalchemy.exc import SAWarning

import leakguard
from leakguard.demo.bugs import PLANTED
from leakguard.demo.lookalikes import LOOK_ALIKES
from leakguard.demo.postgres import PostgresServer
from leakguard.demo.shop import Shop, take_order
from leakguard.demo.verdict import Verdict
from leakguard.model import Event, Exhausted, Leak, Recovered, Site
from leakguard.prose import events, phrases

THRESHOLD: Final = 2.0
IDLE_IN_TRANSACTION: Final = 2.0
OWNER_GRACE: Final = 1.0
SETTLE: Final = 3.5
"""Seconds of ordinary traffic after the last bug: leakguard's limits, and one second to report."""
_BACKENDS: Final = 40  # the demo is about a pool that runs dry, not about a server that does
_INTRODUCTION: Final = """\
leakguard demo: a little shop on a real PostgreSQL. {planted} bugs are planted in it that leak
connections, and {look_alikes} things that only look like one. Its source: {source}
leakguard says LEAK where it is proven, SUSPECT where it is not, ADVICE for a bad habit.
"""


@dataclass(slots=True)
class Narrator:
    """Prints what happens while it happens, one line each, and keeps what leakguard says. Thread-safe."""

    began: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)
    silent: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _said_exhausted: bool = False

    def say(self, who: str, what: str, *more: str) -> None:
        """One line, with the seconds since the start; `more` goes below."""
        with self._lock:
            print(f"{time.monotonic() - self.began:5.1f}s  {who:<10} {what}", flush=True)
            for line in more:
                print(f"{'':19}{line}", flush=True)

    def report(self, event: Event) -> None:
        """Take an event of leakguard."""
        self.events.append(event)
        if self.silent:
            return
        match event:
            case Leak():
                code = event.site.code if event.site is not None else None
                words = f"{phrases.verdict_of(event)} {phrases.kind_words(event.kind)}"
                self.say("leakguard", words, _where(event.site), *([f"    {code.strip()}"] if code else []))
            case Recovered():
                self.say("leakguard", f"RECOVERED after {event.held_for:.1f} s", _where(event.hold.site))
            case Exhausted() if not self._said_exhausted:
                self._said_exhausted = True  # every customer from now on gets the same answer
                self.say("leakguard", f'EXHAUSTED: the pool "{event.pool}" has no connection left')
            case _:
                pass


def run(*, seconds: float, keep: bool, report: str | None) -> int:
    """Run the demo with `seconds` of traffic. Returns 0 if everything planted was found and nothing else.

    `keep` waits with the leaks still open, until Ctrl-C; `report` is a file to append the events to. Raises
    `leakguard.demo.postgres.PostgresError`.
    """
    source = phrases.path(str(Path(__file__).parent))
    print(_INTRODUCTION.format(planted=len(PLANTED), look_alikes=len(LOOK_ALIKES), source=source))
    narrator = Narrator()
    narrator.say("demo", "starting a private PostgreSQL that is thrown away at the end")
    with _quiet_libraries(), PostgresServer(max_connections=_BACKENDS) as server:
        narrator.say("demo", f"PostgreSQL {server.version} is up: {server.dsn()}")
        guard = leakguard.install(
            enabled=True,
            threshold=THRESHOLD,
            idle_in_transaction=IDLE_IN_TRANSACTION,
            owner_grace=OWNER_GRACE,
            app_packages=["leakguard.demo"],
            on_leak=[narrator],
            report=report,
        )
        narrator.say(
            "demo", f"leakguard.install(threshold={THRESHOLD:g}, owner_grace={OWNER_GRACE:g}, ...) is all it takes"
        )
        shop = Shop(server.dsn())
        try:
            shop.open()
            narrator.say("shop", f"open; {len(PLANTED) + len(LOOK_ALIKES)} things are going to happen")
            timeout = _live_through(shop, narrator, seconds)
            leaks = guard.check()  # all findings so far; what the narrator was told is folded
            narrator.silent = True
            verdict = Verdict(leaks, [event for event in narrator.events if isinstance(event, Recovered)])
            _print_report(verdict, timeout)
            if keep:
                _wait_for_ctrl_c(server.dsn())
        finally:
            guard.uninstall()
            shop.close()
    return 0 if verdict.flawless and timeout is not None else 1


def _live_through(shop: Shop, narrator: Narrator, seconds: float) -> PoolTimeout | None:
    """Let everything happen, one thing after the other; returns what the last, innocent customer got."""
    pace = (seconds - SETTLE) / (len(PLANTED) + len(LOOK_ALIKES))
    for scene in (*LOOK_ALIKES, *PLANTED):
        narrator.say("shop", scene.story)
        scene.run(shop)
        time.sleep(pace)
    narrator.say("shop", f"business as usual; {shop.orders_taken} orders so far")
    time.sleep(SETTLE)
    narrator.say("shop", "an innocent customer wants a pot of tea")
    try:
        take_order(shop, "tea")
    except PoolTimeout as error:
        narrator.say("shop", f"PoolTimeout: {error}")
        return error
    return None


def _print_report(verdict: Verdict, timeout: PoolTimeout | None) -> None:
    _headline("what leakguard reports")
    print(events.render_leaks(verdict.leaks))
    _headline("what was planted, and what was found")
    for line in verdict.lines():
        print(line)
    _headline("and what the innocent customer's exception says")
    if timeout is None:
        print("There was none: the pool still had a connection.")
    else:
        print("".join(traceback.format_exception(timeout)), end="", flush=True)


def _where(site: Site | None) -> str:
    return f"{phrases.place(site)} in {site.function}" if site is not None else phrases.place(None)


def _headline(words: str) -> None:
    print(f"\n{'-' * 3} {words} {'-' * (76 - len(words))}\n", flush=True)


def _wait_for_ctrl_c(dsn: str) -> None:
    print(f"\nThe server is still up, and the leaks are still open: {dsn}\nCtrl-C ends it.", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what the libraries say by themselves out of the story; in a real program, it would be in the log."""
    handler = logging.NullHandler()
    loggers = [logging.getLogger(name) for name in ("psycopg.pool", "sqlalchemy")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        yield
    for logger in loggers:
        logger.removeHandler(handler)
