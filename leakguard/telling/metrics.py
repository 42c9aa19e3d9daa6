"""The metrics: what they are called, and where each finds its values in the readings of a guard's register."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from leakguard.telling.durations import Duration
from leakguard.telling.registry import PoolReading, Readings

Labels: TypeAlias = tuple[tuple[str, str], ...]
Values: TypeAlias = Iterator[tuple[Labels, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: its OpenTelemetry name and unit, and how it is read.

    `merge` is what becomes of two values with the same labels, in two guards of one process.
    """

    name: str
    unit: str
    description: str
    kind: Literal["updowncounter", "counter", "gauge"]
    values: Callable[[Readings], Values]
    merge: Callable[[float, float], float] = operator.add


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationMetric:
    """One histogram, in seconds."""

    name: str
    description: str
    duration: Duration


def _of_pool(read: Callable[[PoolReading], float | None]) -> Callable[[Readings], Values]:
    def values(readings: Readings) -> Values:
        for pool in readings.pools:
            if not pool.direct and (value := read(pool)) is not None:
                yield (("pool", pool.name),), value

    return values


def _connections(readings: Readings) -> Values:
    for pool in readings.pools:
        if not pool.direct:
            yield (("pool", pool.name), ("state", "idle")), pool.idle
        yield (("pool", pool.name), ("state", "used")), pool.used


def _leaks(readings: Readings) -> Values:
    for leak in readings.leaks:
        yield (("kind", leak.kind), ("pool", leak.pool), ("fingerprint", leak.fingerprint)), leak.count


def _bugs(readings: Readings) -> Values:
    told: set[str] = set()
    for leak in readings.leaks:
        if leak.fingerprint not in told:
            told.add(leak.fingerprint)
            site = leak.site
            place, function = (f"{site.file}:{site.line}", site.function) if site is not None else ("unknown", "")
            yield (("fingerprint", leak.fingerprint), ("site", place), ("function", function)), 1


def _total(read: Callable[[Readings], int]) -> Callable[[Readings], Values]:
    return lambda readings: iter([((), read(readings))])


METRICS: Final = (
    Metric(
        name="db.client.connection.count",
        unit="{connection}",
        description="The number of connections that are currently in state described by the `state` attribute.",
        kind="updowncounter",
        values=_connections,
    ),
    Metric(
        name="db.client.connection.max",
        unit="{connection}",
        description="The maximum number of open connections allowed.",
        kind="updowncounter",
        values=_of_pool(lambda pool: pool.capacity),
    ),
    Metric(
        name="db.client.connection.pending_requests",
        unit="{request}",
        description="The number of current pending requests for an open connection.",
        kind="updowncounter",
        values=_of_pool(lambda pool: pool.pending),
    ),
    Metric(
        name="db.client.connection.timeouts",
        unit="{timeout}",
        description="The number of connection timeouts that have occurred trying to obtain a connection from the pool.",
        kind="counter",
        values=_of_pool(lambda pool: pool.timeouts),
    ),
    Metric(
        name="leakguard.leaks",
        unit="{leak}",
        description="The number of leaks found so far.",
        kind="counter",
        values=_leaks,
    ),
    Metric(
        name="leakguard.leaks.unnamed",
        unit="{leak}",
        description='The number of leaks counted under the pool and fingerprint "other", for want of series.',
        kind="counter",
        values=_total(lambda readings: readings.unnamed),
    ),
    Metric(
        name="leakguard.bug.info",
        unit="1",
        description="1 for each bug that has leaked: the line of its first leak.",
        kind="gauge",
        values=_bugs,
        merge=max,
    ),
    Metric(
        name="leakguard.holds.oldest",
        unit="s",
        description="For how long the oldest checkout of the pool has been held.",
        kind="gauge",
        values=_of_pool(lambda pool: pool.oldest),
        merge=max,
    ),
    Metric(
        name="leakguard.slots.lost",
        unit="{slot}",
        description="The number of slots that the pool has lost for good.",
        kind="updowncounter",
        values=_of_pool(lambda pool: pool.lost),
    ),
    Metric(
        name="leakguard.internal_errors",
        unit="{error}",
        description="The number of errors of leakguard itself, which the application did not notice.",
        kind="counter",
        values=_total(lambda readings: readings.internal_errors),
        merge=max,
    ),
    Metric(
        name="leakguard.events.dropped",
        unit="{event}",
        description="The number of events that a reporter was not told because too many others waited for it.",
        kind="counter",
        values=_total(lambda readings: readings.dropped_events),
    ),
    Metric(
        name="leakguard.durations.dropped",
        unit="{duration}",
        description="The number of durations missing in the histograms because too many others waited to be exported.",
        kind="counter",
        values=_total(lambda readings: readings.dropped_durations),
        merge=max,
    ),
)

DURATIONS: Final = (
    DurationMetric(
        name="db.client.connection.wait_time",
        description="The time it took to obtain an open connection from the pool.",
        duration="wait",
    ),
    DurationMetric(
        name="db.client.connection.use_time",
        description="The time between borrowing a connection and returning it to the pool.",
        duration="use",
    ),
    DurationMetric(
        name="db.client.connection.create_time",
        description="The time it took to create a new connection.",
        duration="create",
    ),
)

BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The upper bounds of the histograms, in seconds."""


def read_all(metric: Metric, readings: list[Readings]) -> dict[Labels, float]:
    """The values of one metric, over all guards."""
    found: dict[Labels, float] = {}
    for one in readings:
        for labels, value in metric.values(one):
            found[labels] = metric.merge(found[labels], value) if labels in found else value
    return found
