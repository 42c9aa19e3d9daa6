"""How long a hold may last: the settings in force, a threshold of its own, or what its site has taught."""

from __future__ import annotations

import math
from typing import Final

from leakguard.judging.rules import Limits
from leakguard.register.records import HoldRecord
from leakguard.register.stacks import SitePoint
from leakguard.settings import Settings, Threshold

UNTAUGHT: Final = 60.0
"""Seconds that a hold may last, at least, while its site has not yet taught enough."""
ENOUGH: Final = 10
"""After so many holds a site's own durations count alone."""
QUANTILE: Final = 0.95
"""Up to here, durations are usual; what lasts longer is forgiven one hold in twenty."""
FACTOR: Final = 10.0
"""How many times longer than usual a hold may last."""
SHORTEST: Final = 1.0
"""Seconds that every hold may last, however short they usually are: a pause of the machine is no leak."""


def limits_of(hold: HoldRecord) -> Limits:
    """The limits for this hold, in this order: its ``expect_long()``, a threshold of its own, the guard's settings."""
    watch = hold.pool.watch
    assert watch is not None
    settings, long = watch.settings, hold.scope.long
    threshold, idle = seconds_of(_threshold(hold, settings), hold.site), settings.idle_in_transaction
    if long is not None:
        threshold = long.threshold if threshold is not None else None
        idle = max(idle, long.threshold) if idle is not None else None
    return Limits(threshold=threshold, idle_in_transaction=idle, owner_grace=settings.owner_grace)


def shortest(settings: Settings) -> float:
    """Seconds before which no limit of these settings can be exceeded, infinite where there is none."""
    thresholds = (settings.threshold, *(own.threshold for own in settings.thresholds))
    limits = [SHORTEST if threshold == "learned" else threshold for threshold in thresholds]
    return min(
        (limit for limit in (*limits, settings.idle_in_transaction, settings.owner_grace) if limit is not None),
        default=math.inf,
    )


def _threshold(hold: HoldRecord, settings: Settings) -> Threshold:
    if settings.thresholds:
        site = hold.site.site() if hold.site is not None else None
        for own in settings.thresholds:
            if own.pattern.matches(
                file=site.file if site is not None else None,
                function=site.function if site is not None else None,
                pool=None if hold.pool.direct else hold.pool.name,
                fingerprint=None,
            ):
                return own.threshold
    return settings.threshold


def seconds_of(threshold: Threshold, site: SitePoint | None) -> float | None:
    """A threshold in seconds, None for off. A learned one is a multiple of what the site's holds usually last."""
    if threshold != "learned":
        return threshold
    durations = sorted(site.durations.copy()) if site is not None and site.durations is not None else []
    if not durations:
        return UNTAUGHT
    usual = durations[math.ceil(QUANTILE * len(durations)) - 1]
    return max(SHORTEST if len(durations) >= ENOUGH else UNTAUGHT, FACTOR * usual)
