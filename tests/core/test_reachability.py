"""Counting references: what only its pool refers to is told from what somebody else still has."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from leakguard.register import reachability
from leakguard.register.reachability import CONFIRMED_AFTER, KEEPING, Abandoned, is_abandoned, owners_of
from leakguard.register.records import HoldRecord
from tests.core.support import Bench, Connection, Pool, Probe, hold_of


@pytest.fixture
def uncalibrated() -> Iterator[None]:
    """Measure anew, here and in whatever test comes next."""
    reachability._surplus.cache_clear()
    yield
    reachability._surplus.cache_clear()


class KeepingProbe(Probe):
    """Of a pool that refers to what is out: `Pool.kept` is its reference."""

    def abandoned(self, pool: Any, handle: Any) -> bool | None:
        owners = owners_of(lambda: pool.kept[0])
        return None if owners is None else owners == 1


class KeepingPool(Pool):
    """A pool that keeps what it lends."""

    kept: list[Connection]


def lend(bench: Bench) -> tuple[KeepingPool, Connection, HoldRecord]:
    """A pool of that kind, and a checkout."""
    pool = KeepingPool(bench.tracker, library="psycopg2_pool", probe=KeepingProbe())
    connection = pool.getconn()
    pool.kept = [connection]
    return pool, connection, hold_of(bench.tracker, connection)


@pytest.mark.parametrize("owners", range(1, 6))
def test_owners_are_counted(owners: int) -> None:
    """As many as there are, wherever they are, and however often one asks."""
    things = [[]]
    others = [things[0]] * (owners - 1)
    assert [owners_of(lambda: things[0]) for _ in range(50)] == [owners] * 50
    assert len(others) == owners - 1


def test_a_local_variable_is_an_owner() -> None:
    """Of this frame, of a generator that is suspended, of a closure."""
    things = [[]]

    def suspended() -> Iterator[int]:
        mine = things[0]
        yield len(mine)

    generator = suspended()
    next(generator)
    assert owners_of(lambda: things[0]) == 2
    local = things[0]
    assert owners_of(lambda: things[0]) == 3
    generator.close()
    closure = lambda: local  # noqa: E731
    assert owners_of(lambda: things[0]) == 2  # the frame's cell, which the closure shares
    assert closure() is local


def test_counts_that_do_not_behave(uncalibrated: None, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """An interpreter whose counts say nothing is found out, which is said once; then nothing is proven."""
    monkeypatch.setattr(reachability, "_count", lambda get: 7)
    with caplog.at_level(logging.WARNING):
        things = [[]]
        assert [owners_of(lambda: things[0]) for _ in range(3)] == [None] * 3
    assert caplog.text.count("does not tell how many references") == 1


def test_without_the_one_lock(uncalibrated: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads run at the same time, a count is none."""
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    things = [[]]
    assert owners_of(lambda: things[0]) is None


def test_a_proof_takes_two_looks() -> None:
    """A hold is believed to be abandoned at the second look, that much later, if it was so at both."""
    bench = Bench()
    pool, connection, hold = lend(bench)
    looks = Abandoned()
    assert looks.look([hold], 1.0) == []
    del connection
    assert looks.look([hold], 2.0) == []
    assert looks.waiting
    assert looks.look([hold], 2.0 + CONFIRMED_AFTER / 2) == []
    back = pool.kept[0]
    assert looks.look([hold], 3.0) == []
    assert not looks.waiting
    del back
    assert looks.look([hold], 4.0) == []
    assert looks.look([hold], 4.0 + 2 * CONFIRMED_AFTER) == [hold]


def test_only_pools_that_keep_are_asked() -> None:
    """For any other pool the collector tells, and a look would cost for nothing."""
    bench = Bench()
    pool, connection, hold = lend(bench)
    del connection
    assert is_abandoned(hold)
    pool.record.library = "psycopg_pool"
    assert not is_abandoned(hold)
    assert {"asyncpg_pool", "psycopg2_pool"} == KEEPING


def test_doubt_is_no_proof() -> None:
    """A statement that runs, a probe that cannot tell or fails: nothing is abandoned."""
    bench = Bench()
    pool, connection, hold = lend(bench)
    del connection
    hold.active_since = 1.0
    assert not is_abandoned(hold)
    hold.active_since = None
    assert is_abandoned(hold)
    pool.kept.clear()
    assert not is_abandoned(hold)


def test_found_by_the_judge() -> None:
    """Within a second, as `dropped`; once; and the hold goes on, because the pool still has the connection."""
    bench = Bench()
    pool, connection, hold = lend(bench)
    bench.clock.advance(10)
    assert bench.beat() == []
    del connection
    dropped_at = bench.clock.monotonic()
    found: list[Any] = []
    while not found:
        bench.clock.advance(0.25)
        found += bench.beat()
        assert found or bench.judge.wait_for(bench.clock.monotonic()) <= CONFIRMED_AFTER
    assert bench.clock.monotonic() - dropped_at <= 1.0
    assert [(finding.kind, finding.certain, finding.healed) for finding in found] == [("dropped", True, False)]
    assert bench.tracker.holds() == [hold]
    bench.clock.advance(30)
    assert bench.beat() == []
    pool.putconn(pool.kept[0])
    assert bench.tracker.holds() == []
