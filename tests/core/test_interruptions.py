"""Interruptions: an exception of a signal handler's is told from one of leakguard's own."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator

import pytest

from leakguard import runtime
from leakguard.process.interruptions import is_interruption


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


class _Silent:
    def warning(self, *_: object, **__: object) -> None:
        pass
