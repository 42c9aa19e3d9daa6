"""Endings: what is done in front of an end that `atexit` does not see, and how it is undone."""

from __future__ import annotations

import inspect
import signal
from collections.abc import Callable, Collection, Iterator

import pytest

from leakguard.process.endings import Endings


class Ending:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def at_exit(self) -> None:
        self.told.append("exit")

    def at_executors_exit(self, threads: Collection[int]) -> None:
        self.told.append("executors")


@pytest.fixture
def ending() -> Ending:
    """Nothing has ended yet."""
    return Ending()


@pytest.fixture
def hooks(ending: Ending) -> Iterator[dict[str, Callable[[], None]]]:
    """The hooks, undone in the end."""
    endings = Endings(ending)
    yield endings.hooks()
    endings.undo()


def test_only_a_deadly_signal_is_an_end(ending: Ending, hooks: dict[str, Callable[[], None]]) -> None:
    """One that is handled, ignored, or does nothing is none."""
    hooks["signal"]()
    before = signal.signal(signal.SIGTERM, lambda *_: ending.told.append("handled"))
    try:
        signal.raise_signal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    signal.raise_signal(signal.SIGCHLD)
    assert ending.told == ["handled"]


def test_a_wrong_signal_is_the_callers_error(hooks: dict[str, Callable[[], None]]) -> None:
    """The very one that the original raises."""
    hooks["signal"]()
    with pytest.raises((ValueError, OSError)):
        signal.raise_signal(9999)
    with pytest.raises(TypeError):
        signal.raise_signal("TERM")  # type: ignore[arg-type]


def test_the_undo_is_exact(ending: Ending) -> None:
    """The very same object is back, and while ours is there it looks like it."""
    before = signal.raise_signal
    endings = Endings(ending)
    endings.hooks()["signal"]()
    ours = signal.raise_signal
    assert ours is not before
    assert (ours.__name__, ours.__doc__) == (before.__name__, before.__doc__)
    assert inspect.signature(ours) == inspect.signature(before)
    endings.undo()
    assert signal.raise_signal is before


def test_a_child_of_celerys_pool_ends_after_the_application(
    ending: Ending, hooks: dict[str, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ``worker_process_shutdown`` may still give something back; and if it raises, the end is one all the same."""
    prefork = pytest.importorskip("celery.concurrency.prefork")
    monkeypatch.setattr(prefork, "process_destructor", lambda pid, exitcode: ending.told.append(f"{pid} {exitcode}"))
    hooks["celery.concurrency.prefork"]()
    prefork.process_destructor(1, 0)
    assert ending.told == ["1 0", "exit"]
