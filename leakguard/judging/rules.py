"""The rules: from what is known about a hold to the moment at which that becomes a finding.

Each rule is a pure function from `Facts` to a moment on the monotonic clock, or None where, as things stand, there is
nothing to find. The hold is found when that moment has come. The same number tells the watchdog when to look again,
so a sweep costs no more than what is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leakguard.model import State

IN_TRANSACTION: Final = frozenset[State]({"in_transaction", "in_error"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The settings that apply to one hold, in seconds; None is off."""

    threshold: float | None
    idle_in_transaction: float | None
    owner_grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about a hold. Moments are monotonic seconds; None means that it has not happened."""

    acquired_at: float
    last_used: float | None
    owner_ended_at: float | None
    closed_at: float | None
    is_checkout: bool
    close_loses_slot: bool
    delivered_only: bool
    """Its task or thread only fetched the connection for others, so that one's end says nothing: the acquisition had no
    frame but the library's own (``create_task(pool.getconn())``, ``wait_for()`` before Python 3.12), or AnyIO's threads
    did it, which end when they are idle."""

    @property
    def touched_at(self) -> float:
        """The last sign of life: the latest use, else the acquisition."""
        return self.acquired_at if self.last_used is None else max(self.acquired_at, self.last_used)


def overdue_at(facts: Facts, limits: Limits) -> float | None:
    """Age alone makes a checkout suspect, never a direct connection (``CONN_MAX_AGE``, LISTEN, a lock's leader)."""
    if limits.threshold is None or not facts.is_checkout:
        return None
    return facts.acquired_at + limits.threshold


def idle_in_transaction_at(facts: Facts, limits: Limits, state: State) -> float | None:
    """An open transaction in which nothing runs holds locks and keeps vacuum from its work, whoever holds it."""
    if limits.idle_in_transaction is None or state not in IN_TRANSACTION:
        return None
    return facts.touched_at + limits.idle_in_transaction


def orphaned_at(facts: Facts, limits: Limits) -> float | None:
    """The owner has ended, and nobody else has used the connection for as long as the grace lasts."""
    if facts.owner_ended_at is None or facts.delivered_only:
        return None
    return max(facts.owner_ended_at, facts.touched_at) + limits.owner_grace


def lost_slot_at(facts: Facts, limits: Limits) -> float | None:
    """The checkout was closed instead of returned: the pool waits for it in vain."""
    if facts.closed_at is None or not (facts.is_checkout and facts.close_loses_slot):
        return None
    return facts.closed_at + limits.owner_grace
