"""Healing, for whoever asks for it: a pool gets back the slot of a checkout that nobody can reach any more.

A hold that may still be used is never touched: only what is proven to be ``dropped`` is given back, which no code of
the application can do any more.
"""

from __future__ import annotations

from collections.abc import Callable

from leakguard.judging.judge import Finding
from leakguard.model import Leak


def is_asked_for(finding: Finding) -> bool:
    """Whether ``reclaim="dropped"`` means this finding, and its pool can be helped."""
    return (
        finding.kind == "dropped"
        and not finding.healed
        and finding.hold is not None
        and finding.hold.is_checkout
        and finding.watch.settings.reclaim == "dropped"
        and finding.pool.reclaim is not None
    )


def heal(finding: Finding, leak: Leak, say: Callable[[str], None]) -> None:
    """Give the pool its slot back, and say so with the line that lost it. May raise what the library raises.

    Called with no lock held, by the thread that judged.
    """
    record, hold = finding.pool, finding.hold
    pool = record.pool()
    if pool is None or hold is None or record.reclaim is None:
        return  # the pool is gone, and its slots with it
    done = record.reclaim(pool, hold)
    if done and hold.ended is not None:
        record.lost = max(0, record.lost - 1)
    site = leak.site
    where = f"{site.file}:{site.line} in {site.function}" if site is not None else "an unknown place"
    what = "has got back the slot" if done else "could not be given back the slot"
    say(
        f'leakguard: pool "{record.name}" {what} of the connection that was acquired at {where} and dropped '
        f'({leak.fingerprint}, {leak.count} so far); reclaim="dropped" asks for that'
    )
