"""A guard as its exporters see it: the register's numbers at the moment somebody asks, and the durations.

Nothing here counts up and down. Whatever way a hold has ended, the next reading is right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from leakguard.model import Kind, Leak, Site, Trace
from leakguard.process.native import Lock
from leakguard.register.records import HoldRecord, PoolRecord, Watch
from leakguard.register.tracker import Tracker
from leakguard.telling.durations import Durations, Exporter, Subscriber, durations_of

SERIES_LIMIT: Final = 100
"""The most pools, and the most combinations of kind, pool and fingerprint, that have a series of their own."""
OTHER: Final = "other"
"""The pool, and the fingerprint, of what came after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReading:
    """The pools of one name, at one moment.

    `used` and `idle` count server connections, `pending` the acquires that wait, `timeouts` those that waited in vain,
    `lost` the slots that are gone for good. `capacity` is null without a limit; `oldest` is for how many seconds the
    oldest checkout has been held, leaving out what ``allow()`` allows. With `direct` these are the connections that no
    pool has: only `used` means something.
    """

    name: str
    direct: bool
    idle: int
    used: int
    pending: int
    timeouts: int
    lost: int
    capacity: int | None
    oldest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakReading:
    """How many leaks of one kind, pool and bug there have been so far, and the line of the first."""

    kind: Kind
    pool: str
    fingerprint: str
    site: Site | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Everything that there is to export of one guard, at one moment.

    `unnamed` counts the leaks that are among those of pool and fingerprint "other". `internal_errors` and
    `dropped_durations` are those of the whole process.
    """

    pools: tuple[PoolReading, ...]
    leaks: tuple[LeakReading, ...]
    unnamed: int
    internal_errors: int
    dropped_events: int
    dropped_durations: int


class Tally:
    """The leaks of one guard by kind, pool and fingerprint. Written under the runtime's lock, read by anybody."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin to count afresh."""
        self._found: dict[tuple[Kind, str, str], LeakReading] = {}
        self.unnamed = 0

    def add(self, leak: Leak, pool: str) -> None:
        """Count a leak."""
        key, site = (leak.kind, pool, leak.fingerprint), leak.site
        if key not in self._found and len(self._found) >= SERIES_LIMIT:
            self.unnamed += 1
            key, site = (leak.kind, OTHER, OTHER), None
        before = self._found.get(key)
        self._found[key] = LeakReading(
            kind=key[0],
            pool=key[1],
            fingerprint=key[2],
            site=site if before is None else before.site,
            count=1 if before is None else before.count + 1,
        )

    def readings(self) -> tuple[LeakReading, ...]:
        """What has been counted so far."""
        return tuple(self._found.copy().values())


class Registry:
    """One guard, as its exporters see it. Thread-safe; keeps no pool and no connection alive."""

    def __init__(
        self,
        tracker: Tracker,
        watch: Watch,
        tally: Tally,
        *,
        internal_errors: Callable[[], int],
        dropped_events: Callable[[], int],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        self._tracker = tracker
        self._watch = watch
        self._tally = tally
        self._internal_errors = internal_errors
        self._dropped_events = dropped_events
        self._failed = failed
        self._labels: set[str] = set()
        self._subscribed: list[Durations] = []
        self.forget()

    def forget(self) -> None:
        """In a forked child: its pools are new, and a thread of the parent's may have held the lock."""
        self._lock = Lock()
        self._seen: dict[PoolRecord, str] = {}
        self._retired: dict[str, int] = {}
        for durations in self._subscribed:
            durations.forget()

    # ------------------------------------------------------------------ exporters

    def subscribe(self, exporter: Exporter, *, trace: Callable[[], Trace | None] | None = None) -> None:
        """Tell `exporter` of every duration, and of the time that passes; `trace` says which span is current."""
        durations = durations_of(self._tracker)
        durations.subscribe(
            Subscriber(exporter=exporter, watch=self._watch, label=self.label, trace=trace, failed=self._failed)
        )
        self._subscribed = [durations]

    def unsubscribe(self, exporter: Exporter) -> None:
        """Tell it no more. Nothing happens if it is not told."""
        for durations in self._subscribed:
            durations.unsubscribe(exporter, self._watch)

    def flush(self) -> None:
        """Have the exporters told of the durations that wait."""
        for durations in self._subscribed:
            durations.flush()

    def say_last(self) -> None:
        """The process ends: the exporters are told so."""
        for durations in self._subscribed:
            durations.beat(last=True)

    # ------------------------------------------------------------------ readings

    def label(self, name: str) -> str:
        """The name under which a pool is exported: its own, or "other" for all that come after the first hundred.

        A process that makes an engine for every request must not make a series for each.
        """
        if name not in self._labels:
            if len(self._labels) >= SERIES_LIMIT:
                return OTHER
            self._labels.add(name)
        return name

    def read(self) -> Readings:
        """The register as it is now."""
        tracker = self._tracker
        with self._lock:
            pools = self._read_pools()
        return Readings(
            pools=pools,
            leaks=self._tally.readings(),
            unnamed=self._tally.unnamed,
            internal_errors=self._internal_errors(),
            dropped_events=self._dropped_events(),
            dropped_durations=tracker.meter.dropped if isinstance(tracker.meter, Durations) else 0,
        )

    def _read_pools(self) -> tuple[PoolReading, ...]:
        now = self._tracker.clock.monotonic()
        mine = [record for record in self._tracker.records() if record.watch is self._watch]
        groups: dict[str, list[PoolRecord]] = {}
        for record in mine:
            groups.setdefault(self.label(record.name), []).append(record)
        self._retire({record: label for label, records in groups.items() for record in records})
        strays = sum(1 for record in mine for hold in record.holds() if hold.detached)
        return tuple(
            _reading(label, records, now, self._retired.get(label, 0), strays if records[0].direct else 0)
            for label, records in groups.items()
        )

    def _retire(self, present: dict[PoolRecord, str]) -> None:
        # A pool that is gone takes its timeouts along, but not while another one of its name goes on (`dispose()`
        # replaces a pool by its like): a counter that goes down looks like a restart, and a rise after it.
        for record, label in self._seen.items():
            if record not in present:
                self._retired[label] = self._retired.get(label, 0) + record.timeouts
        labels = set(present.values())
        self._retired = {label: count for label, count in self._retired.items() if label in labels}
        self._seen = present


def _reading(label: str, records: list[PoolRecord], now: float, retired: int, strays: int) -> PoolReading:
    """The pools of one name; `retired` are the timeouts of those that are gone, `strays` what has left its pool."""
    holds = [hold for record in records for hold in record.holds() if not hold.covered]
    limits = [limit for record in records if (limit := _capacity(record)) is not None]
    ages = [now - hold.acquired_at for hold in holds if hold.is_checkout and hold.allowed is None]
    return PoolReading(
        name=label,
        direct=records[0].direct,
        idle=sum(_idle(record) for record in records),
        used=strays + sum(1 for hold in holds if not hold.detached and _is_open(hold)),
        pending=sum(record.pending() for record in records),
        timeouts=retired + sum(record.timeouts for record in records),
        lost=sum(record.lost + record.excess_told for record in records),
        capacity=sum(limits) if limits else None,
        oldest=max(ages, default=0.0),
    )


def _is_open(hold: HoldRecord) -> bool:
    return hold.wire is None or hold.wire.is_open


def _idle(record: PoolRecord) -> int:
    # Where pools are stacked, a connection that is idle in the outer pool is still checked out of the inner one.
    wires = list(record.wires.values())
    return sum(1 for wire in wires if wire.is_open and ((hold := wire.hold) is None or hold.covered))


def _capacity(record: PoolRecord) -> int | None:
    pool = record.pool()
    if pool is None or record.probe is None:
        return None
    try:
        return record.probe.capacity(pool)
    except Exception:  # a pool that cannot be asked just now
        return None
