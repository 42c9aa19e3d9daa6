"""Which leaks are known: the counting that a worker and the controller each do."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from leakguard.baseline import Baseline, Entry
from leakguard.pytest_plugin.known import Budget

KNOWN = Baseline({"0123456789ab": Entry(fingerprint="0123456789ab", max_count=2)})


def leak(fingerprint: str = "0123456789ab", kind: str = "dropped") -> Any:
    """As much of a leak as the budget looks at."""
    return SimpleNamespace(fingerprint=fingerprint, kind=kind)


def test_tests_share_the_maximum() -> None:
    """Two are known, the third is more, and another bug is new."""
    budget = Budget.of(KNOWN, everything=False)
    assert [budget.take(leak(), key) for key in "abc"] == ["known", "known", "more"]
    assert budget.take(leak("ba9876543210"), "d") == "new"


def test_one_test_can_have_several() -> None:
    """They count one by one."""
    budget = Budget.of(KNOWN, everything=False)
    assert [budget.take(leak(), "a") for _ in range(3)] == ["known", "known", "more"]


def test_same_fixture_of_several_workers_counts_once() -> None:
    """And leaves room for what is another leak."""
    budget = Budget.of(KNOWN, everything=False)
    assert [budget.take(leak(), "fixture", worker) for worker in ("gw0", "gw1", "gw2")] == ["known"] * 3
    assert budget.take(leak(), "test", "gw0") == "known"
    assert budget.take(leak(), "other test", "gw1") == "more"
    assert budget.take(leak(), "fixture", "gw3") == "known"


def test_second_leak_of_the_same_fixture_counts() -> None:
    """A worker's second one is the second, and that of another worker is the same second."""
    budget = Budget.of(KNOWN, everything=False)
    workers = ["gw0", "gw0", "gw1", "gw1", "gw0"]
    assert [budget.take(leak(), "fixture", worker) for worker in workers] == ["known"] * 4 + ["more"]


def test_a_worker_never_says_more_too_early() -> None:
    """Whatever a worker calls more, the controller, which has seen at least as much, calls so too."""
    workers = {name: Budget.of(KNOWN, everything=False) for name in ("gw0", "gw1")}
    controller = Budget.of(KNOWN, everything=False)
    for name, key in [("gw0", "f"), ("gw1", "f"), ("gw0", "a"), ("gw0", "b"), ("gw1", "c"), ("gw1", "f"), ("gw0", "d")]:
        said, last = workers[name].take(leak(), key), controller.take(leak(), key, name)
        assert last == "more" or said == "known"


def test_kinds_narrow_an_entry() -> None:
    """A kind that the entry does not name is new."""
    entry = Entry(fingerprint="0123456789ab", max_count=2, kinds=("dropped",))
    budget = Budget.of(Baseline({entry.fingerprint: entry}), everything=False)
    assert budget.take(leak(kind="outstanding"), "a") == "new"
    assert budget.take(leak(kind="dropped"), "a") == "known"


def test_everything_is_known_while_the_baseline_is_written() -> None:
    """The run's outcome is as if all were known."""
    budget = Budget.of(Baseline({}), everything=True)
    assert budget.take(leak(), "a") == "known"


def test_budget_travels_as_json() -> None:
    """A worker of xdist gets it in its input."""
    packed = json.loads(json.dumps(Budget.of(KNOWN, everything=False).packed()))
    budget = Budget.unpacked(packed)
    assert [budget.take(leak(), key) for key in "abc"] == ["known", "known", "more"]
