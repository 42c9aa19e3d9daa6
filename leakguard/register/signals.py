"""What the hot path and the finalizers put on the tracker's queue for the judge: one frozen record of what happened."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from leakguard.model import Exhausted
from leakguard.register.records import HoldRecord, PoolRef, Watch, WireRef


class Collected(NamedTuple):
    """A pool noticed that a checkout's handle was garbage-collected; `healed` if it took the connection back."""

    hold: HoldRecord
    healed: bool


class Returned(NamedTuple):
    """A hold that had been suspected has ended well."""

    hold: HoldRecord
    at: float


class Nested(NamedTuple):
    """An owner is about to acquire from a pool of which it already holds `outer`."""

    attempt: HoldRecord
    outer: HoldRecord


class Changed(NamedTuple):
    """Something about a hold that its schedule did not foresee: a new owner, or its connection was closed."""

    hold: HoldRecord


class Refused(NamedTuple):
    """An acquire failed for want of a connection, and this is what there is to tell of it."""

    watch: Watch
    event: Exhausted


Signal: TypeAlias = WireRef | PoolRef | Collected | Returned | Nested | Changed | Refused | None
"""A weak reference that has died, something that happened, or None to wake whoever waits."""
