"""The rules: pure functions from what is known to the moment at which it becomes a finding."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakguard.judging.rules import (
    IN_TRANSACTION,
    Facts,
    Limits,
    idle_in_transaction_at,
    lost_slot_at,
    orphaned_at,
    overdue_at,
)
from leakguard.model import State

FACTS = Facts(
    acquired_at=100.0,
    last_used=None,
    owner_ended_at=None,
    closed_at=None,
    is_checkout=True,
    close_loses_slot=True,
    delivered_only=False,
)
LIMITS = Limits(threshold=60.0, idle_in_transaction=30.0, owner_grace=5.0)

moments = st.floats(0, 1e6)
perhaps = st.none() | moments
limits_of_any_kind = st.builds(Limits, threshold=perhaps, idle_in_transaction=perhaps, owner_grace=st.floats(0, 1e4))
facts_of_any_kind = st.builds(
    Facts,
    acquired_at=moments,
    last_used=perhaps,
    owner_ended_at=perhaps,
    closed_at=perhaps,
    is_checkout=st.booleans(),
    close_loses_slot=st.booleans(),
    delivered_only=st.booleans(),
)
states = st.sampled_from(get_args(State))


def every_rule(facts: Facts, limits: Limits, state: State) -> list[float | None]:
    """What each of the rules says."""
    return [
        overdue_at(facts, limits),
        idle_in_transaction_at(facts, limits, state),
        orphaned_at(facts, limits),
        lost_slot_at(facts, limits),
    ]


def test_a_checkout_is_overdue_a_threshold_after_its_acquisition() -> None:
    """Age counts from the acquisition, however lately the connection was used."""
    assert overdue_at(FACTS, LIMITS) == 160.0
    assert overdue_at(replace(FACTS, last_used=159.0), LIMITS) == 160.0


def test_age_alone_never_makes_a_direct_connection_suspect() -> None:
    """CONN_MAX_AGE, LISTEN and a leader's lock are held for hours in good order."""
    assert overdue_at(replace(FACTS, is_checkout=False), LIMITS) is None


def test_no_threshold_means_never_overdue() -> None:
    """``threshold=off``."""
    assert overdue_at(FACTS, replace(LIMITS, threshold=None)) is None


@pytest.mark.parametrize("state", ["in_transaction", "in_error"])
def test_a_transaction_idles_from_the_last_use(state: State) -> None:
    """An idle transaction is measured from the last statement, not from its begin; a failed one is open as well."""
    assert idle_in_transaction_at(FACTS, LIMITS, state) == 130.0
    assert idle_in_transaction_at(replace(FACTS, last_used=150.0), LIMITS, state) == 180.0
    assert idle_in_transaction_at(replace(FACTS, is_checkout=False), LIMITS, state) == 130.0


@pytest.mark.parametrize("state", sorted(set(get_args(State)) - IN_TRANSACTION))
def test_only_an_open_transaction_without_a_statement_idles(state: State) -> None:
    """Idle, active, closed and unknown connections are no idle transactions."""
    assert idle_in_transaction_at(FACTS, LIMITS, state) is None


def test_no_limit_means_never_idle_in_transaction() -> None:
    """``idle_in_transaction=off``."""
    assert idle_in_transaction_at(FACTS, replace(LIMITS, idle_in_transaction=None), "in_transaction") is None


@pytest.mark.parametrize(
    ("ended", "last_used", "moment"),
    [
        pytest.param(120.0, None, 125.0, id="never used"),
        pytest.param(120.0, 110.0, 125.0, id="used before its owner's end"),
        pytest.param(120.0, 140.0, 145.0, id="used by another after its owner's end"),
        pytest.param(90.0, None, 105.0, id="acquired after its owner's end"),
    ],
)
def test_orphaned_needs_the_grace_since_the_end_and_since_the_last_use(
    ended: float, last_used: float | None, moment: float
) -> None:
    """Whichever came last, the owner's end or a use, begins the grace."""
    assert orphaned_at(replace(FACTS, owner_ended_at=ended, last_used=last_used), LIMITS) == moment


def test_a_living_owner_orphans_nothing() -> None:
    """The clean twin of every orphan."""
    assert orphaned_at(FACTS, LIMITS) is None


def test_what_was_only_delivered_is_not_orphaned() -> None:
    """``create_task(pool.getconn())`` fetches for others, so that task's end says nothing."""
    assert orphaned_at(replace(FACTS, owner_ended_at=120.0, delivered_only=True), LIMITS) is None


def test_an_orphan_needs_no_threshold() -> None:
    """It is proof, not suspicion: direct connections too, and with all the thresholds off."""
    off = Limits(threshold=None, idle_in_transaction=None, owner_grace=0.0)
    assert orphaned_at(replace(FACTS, is_checkout=False, owner_ended_at=120.0), off) == 120.0


def test_a_checkout_that_was_closed_loses_its_slot_after_the_grace() -> None:
    """The grace counts from the close, not from a later use."""
    assert lost_slot_at(replace(FACTS, closed_at=110.0, last_used=150.0), LIMITS) == 115.0


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(FACTS, id="open"),
        pytest.param(replace(FACTS, closed_at=110.0, is_checkout=False), id="direct or detached"),
        pytest.param(replace(FACTS, closed_at=110.0, close_loses_slot=False), id="the pool notices a close"),
    ],
)
def test_no_slot_is_lost_otherwise(facts: Facts) -> None:
    """An open checkout, a direct connection, and a pool whose slots survive a close."""
    assert lost_slot_at(facts, LIMITS) is None


def test_a_use_before_the_acquisition_counts_for_nothing() -> None:
    """The previous holder's use of the same connection is no sign of life of this one."""
    assert replace(FACTS, last_used=90.0).touched_at == 100.0
    assert replace(FACTS, last_used=None).touched_at == 100.0
    assert replace(FACTS, last_used=101.0).touched_at == 101.0


@given(facts=facts_of_any_kind, limits=limits_of_any_kind, state=states, later=st.floats(0, 1e6))
def test_a_use_never_brings_a_finding_forward(facts: Facts, limits: Limits, state: State, later: float) -> None:
    """However `last_used` grows, no rule speaks earlier, and none falls silent or begins to speak."""
    used = replace(facts, last_used=facts.touched_at + later)
    for before, after in zip(every_rule(facts, limits, state), every_rule(used, limits, state), strict=True):
        assert (before is None) == (after is None)
        assert before is None or after is None or after >= before


@given(facts=facts_of_any_kind, limits=limits_of_any_kind, state=states)
def test_nothing_is_found_before_it_was_acquired(facts: Facts, limits: Limits, state: State) -> None:
    """The rules that look at the hold itself speak no earlier than it began."""
    overdue, idle, orphaned, _ = every_rule(facts, limits, state)
    for moment in (overdue, idle, orphaned):
        assert moment is None or moment >= facts.acquired_at


@given(facts=facts_of_any_kind, limits=limits_of_any_kind, state=states, more=st.floats(0, 1e4))
def test_a_higher_limit_never_finds_earlier(facts: Facts, limits: Limits, state: State, more: float) -> None:
    """Patience is monotone: with every limit raised, no moment comes earlier."""
    patient = Limits(
        threshold=None if limits.threshold is None else limits.threshold + more,
        idle_in_transaction=None if limits.idle_in_transaction is None else limits.idle_in_transaction + more,
        owner_grace=limits.owner_grace + more,
    )
    for before, after in zip(every_rule(facts, limits, state), every_rule(facts, patient, state), strict=True):
        assert (before is None) == (after is None)
        assert before is None or after is None or after >= before
