"""The ledger: exact counts, and a flood folded into one event in ten seconds."""

from __future__ import annotations

import pytest

from leakguard.model import Leak
from leakguard.register import ledger
from leakguard.register.ledger import REPEAT_AFTER, Ledger
from tests.factories import make_leak

LEAK = make_leak(count=1)


def test_the_first_of_a_bug_is_told_at_once() -> None:
    """With a count of one."""
    assert Ledger[Leak]().enter("bug", LEAK, 0.0) == (LEAK, True)


def test_later_ones_are_folded_for_ten_seconds() -> None:
    """Counted, not told; at the tenth second the next one is told with the exact count."""
    entries = Ledger[Leak]()
    entries.enter("bug", LEAK, 0.0)
    for number in range(2, 100):
        leak, tell = entries.enter("bug", LEAK, 0.1 * number)
        assert (leak.count, tell) == (number, False)
    leak, tell = entries.enter("bug", LEAK, REPEAT_AFTER)
    assert (leak.count, tell) == (100, True)
    assert entries.due(1000.0) == []
    assert entries.enter("bug", LEAK, 2 * REPEAT_AFTER - 0.001)[1] is False


def test_a_folded_event_is_told_when_its_ten_seconds_are_over() -> None:
    """The latest one, once, exactly at the moment."""
    entries = Ledger[Leak]()
    for _ in range(3):
        entries.enter("bug", LEAK, 0.0)
    assert entries.due(REPEAT_AFTER - 0.001) == []
    assert [leak.count for leak in entries.due(REPEAT_AFTER)] == [3]
    assert entries.due(REPEAT_AFTER * 5) == []


def test_the_ten_seconds_begin_with_the_last_telling() -> None:
    """A told fold begins a new silence."""
    entries = Ledger[Leak]()
    for _ in range(2):
        entries.enter("bug", LEAK, 0.0)
    entries.due(12.0)
    assert entries.enter("bug", LEAK, 13.0)[1] is False
    assert entries.due(21.9) == []
    assert [leak.count for leak in entries.due(22.0)] == [3]


def test_at_the_end_everything_folded_is_told() -> None:
    """So the highest count is exact."""
    entries = Ledger[Leak]()
    for _ in range(7):
        entries.enter("one", LEAK, 0.0)
    entries.enter("other", LEAK, 0.0)
    assert [leak.count for leak in entries.due(0.1, everything=True)] == [7]
    assert entries.due(0.2, everything=True) == []


def test_bugs_are_counted_apart() -> None:
    """One bug's flood silences no other."""
    entries = Ledger[Leak]()
    entries.enter("one", LEAK, 0.0)
    entries.enter("one", LEAK, 0.0)
    assert entries.enter("other", LEAK, 0.0) == (LEAK, True)


def test_beyond_the_limit_every_event_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory is bounded; what cannot be counted apart is never lost."""
    monkeypatch.setattr(ledger, "BUGS_LIMIT", 2)
    entries = Ledger[Leak]()
    for bug in ("one", "two", "three", "three"):
        assert entries.enter(bug, LEAK, 0.0) == (LEAK, True)
    assert entries.enter("two", LEAK, 0.0)[0].count == 2
