"""The watchdog: one daemon thread, started lazily, that nothing ends but its stop."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from leakguard.clock import SYSTEM_CLOCK
from leakguard.runtime import Runtime
from leakguard.watchdog import NAME, Watchdog
from tests.core.support import wait_until


class Heart:
    """Beats when it is told to."""

    def __init__(self) -> None:
        self.signals: SimpleQueue[None] = SimpleQueue()
        self.beats: list[int] = []
        self.dogs = 1
        self.watchdog = Watchdog(self.beat, self.interrupt)

    def interrupt(self) -> None:
        for _ in range(self.dogs):
            self.signals.put(None)

    def beat(self, *, block: bool) -> None:
        assert block
        self.signals.get()
        self.beats.append(threading.get_ident())


@pytest.fixture
def heart() -> Iterator[Heart]:
    """A watchdog that is stopped in the end."""
    heart = Heart()
    yield heart
    heart.watchdog.stop()


def dogs() -> list[threading.Thread]:
    """The watchdog threads of this process."""
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def test_no_thread_before_it_is_needed(heart: Heart) -> None:
    """It starts at the first `ensure`, once, as a daemon."""
    assert dogs() == []
    heart.watchdog.ensure()
    heart.watchdog.ensure()
    (thread,) = dogs()
    assert thread.daemon


def test_stop_ends_the_thread_and_waits_for_it(heart: Heart) -> None:
    """And it may be started again."""
    heart.watchdog.ensure()
    heart.watchdog.stop()
    assert dogs() == []
    heart.watchdog.ensure()
    assert len(dogs()) == 1


def test_stopping_twice_or_unstarted_is_nothing(heart: Heart) -> None:
    """Uninstall is idempotent."""
    heart.watchdog.stop()
    heart.watchdog.stop()
    assert dogs() == []


def test_it_may_be_stopped_from_its_own_thread() -> None:
    """A reporter may uninstall: the thread does not wait for itself."""

    class Suicidal(Heart):
        def beat(self, *, block: bool) -> None:
            super().beat(block=block)
            self.watchdog.stop()

    heart = Suicidal()
    heart.watchdog.ensure()
    heart.signals.put(None)
    wait_until(lambda: not dogs())
    assert len(heart.beats) == 1


def test_a_machine_without_threads_is_tried_again_later(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "can't start new thread" is no error of the application's."""
    with monkeypatch.context() as patched:

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", refuse)
        heart.watchdog.ensure()
    assert dogs() == []
    heart.watchdog.ensure()
    assert len(dogs()) == 1


def test_nothing_is_started_at_interpreter_shutdown(heart: Heart, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would hang or raise."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "is_finalizing", lambda: True)
        heart.watchdog.ensure()
    assert dogs() == []


def test_a_forked_child_starts_its_own(heart: Heart) -> None:
    """`forget` takes the thread for gone and the lock for free."""
    heart.watchdog.ensure()
    (parent,) = dogs()
    heart.watchdog._lock.acquire()
    heart.watchdog.forget()
    heart.watchdog.ensure()
    assert len(dogs()) == 2
    assert parent in dogs()
    heart.dogs = 2
    heart.watchdog.stop()
    wait_until(lambda: not dogs())


def test_the_real_beat_survives_whatever_it_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in a round is counted, and the next round comes."""
    runtime = Runtime(SYSTEM_CLOCK)
    monkeypatch.setattr("leakguard.libraries._log", lambda: _Silent())
    monkeypatch.setattr(runtime.rounds, "work", lambda **_: 1 / 0)
    runtime._watchdog.ensure()
    runtime.tracker.signals.put(None)
    wait_until(lambda: runtime.internal_errors >= 1)
    before = runtime.internal_errors
    runtime.tracker.signals.put(None)
    wait_until(lambda: runtime.internal_errors > before)
    runtime._watchdog.stop()
    assert dogs() == []


class _Silent:
    def warning(self, *_: object, **__: object) -> None:
        pass
