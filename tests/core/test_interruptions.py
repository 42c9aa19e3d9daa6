"""Interruptions: an exception of a signal handler's is told from one of leakguard's own."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator

import pytest

from leakguard import runtime
from leakguard.integrations.base import released_after_all
from leakguard.process.interruptions import is_interruption
from leakguard.register.records import Watch
from leakguard.settings import Settings
from tests.core.support import Pool


class SoftTimeLimit(Exception):
    """What a handler raises."""


def handler(*_: object) -> None:
    raise_it()


def raise_it() -> None:
    raise SoftTimeLimit


class Handler:
    """Handlers of other forms."""

    def method(self, *_: object) -> None:
        raise_it()

    def __call__(self, *_: object) -> None:
        raise_it()


@pytest.fixture
def interrupted() -> Iterator[Callable[[object], Exception]]:
    """What such a handler raises in the midst of our code."""
    before = signal.getsignal(signal.SIGALRM)

    def interrupted(handler: Callable[..., object]) -> Exception:
        signal.signal(signal.SIGALRM, handler)
        with pytest.raises(SoftTimeLimit) as caught:
            signal.raise_signal(signal.SIGALRM)
        return caught.value

    yield interrupted
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(handler, id="function"),
        pytest.param(Handler().method, id="method"),
        pytest.param(Handler(), id="object"),
        pytest.param(functools.partial(handler, 1), id="partial"),
    ],
)
def test_a_handlers_exception_is_let_through(interrupted: Callable[[object], Exception], form: object) -> None:
    """And is not counted: it is the application's."""
    error = interrupted(form)
    assert is_interruption(error)
    counting = runtime.Runtime(threaded=False)
    with pytest.raises(SoftTimeLimit):
        counting.internal_error("psycopg.connect", error)
    assert counting.internal_errors == 0


def test_an_error_of_our_own_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it is of the same type: no handler has raised it."""
    monkeypatch.setattr("leakguard.libraries._log", lambda: _Silent())
    counting = runtime.Runtime(threaded=False)
    with pytest.raises(SoftTimeLimit) as caught:
        raise_it()
    assert not is_interruption(caught.value)
    counting.internal_error("psycopg.connect", caught.value)
    assert counting.internal_errors == 1


def test_an_error_of_which_that_cannot_be_told_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, the question itself may fail: nothing of that reaches the application."""

    def out_of_memory() -> Iterator[object]:
        raise MemoryError

    monkeypatch.setattr("leakguard.libraries._log", lambda: _Silent())
    monkeypatch.setattr("leakguard.process.interruptions._handlers", out_of_memory)
    counting = runtime.Runtime(threaded=False)
    counting.internal_error("psycopg.connect", ValueError())
    assert counting.internal_errors == 1


def test_what_fails_while_a_failed_release_is_mended_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller counts the first error; the second one is none that nobody hears of."""
    monkeypatch.setattr("leakguard.libraries._log", lambda: _Silent())
    counting = runtime.Runtime(threaded=False)
    pool = Pool(counting.tracker)
    counting.tracker.process_watch = pool.record.watch = Watch(Settings())
    kept = pool.getconn()
    wire = counting.tracker.wire_of(kept)
    assert wire is not None

    def out_of_memory(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(counting.tracker, "restore", out_of_memory)
    released_after_all(counting, wire.hold, ValueError())
    assert counting.internal_errors == 1


class _Silent:
    def warning(self, *_: object, **__: object) -> None:
        pass
