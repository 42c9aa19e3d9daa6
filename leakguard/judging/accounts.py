"""A pool's own count of its connections against ours: more is out than anybody holds, so a slot was lost.

This is the only sight of what is lost below every hook. A pool also counts what nobody holds for a while: connections
that it opens, tries to open again, rolls back, resets or closes. These explain an excess as long as they last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from leakguard.register.records import PoolRecord


def lost_slots(records: Iterable[PoolRecord], now: float) -> Iterator[tuple[PoolRecord, int]]:
    """The pools that have lost another slot, and how many more they count as out than anybody holds.

    Each lost slot is found once. Call it again and again, by one thread at a time: an excess has to last for the
    grace of the pool's watch, and for a second at least.
    """
    for record in records:
        try:
            missing, explained = _missing(record, now) or (record.excess_told, 0)
        except Exception:  # a pool that cannot be asked just now
            missing, explained = record.excess_told, 0
        excess = missing - explained
        if record.watch is None or excess <= record.excess_told:
            record.excess_since = None
            # What passes explains an excess for a moment; only a pool that counts less has found a slot again.
            record.excess_told = min(record.excess_told, max(0, missing))
        elif record.excess_since is None:
            record.excess_since = now
        elif now - record.excess_since > max(1.0, record.watch.settings.owner_grace):
            record.excess_told += 1
            yield record, excess


def _missing(record: PoolRecord, now: float) -> tuple[int, int] | None:
    """How many more the pool counts as out than we know of, and how many of them are on their way in or out.

    None while its count proves nothing: a pool that connects, or could not, also counts what waits for its workers or
    for the next attempt.
    """
    pool = record.pool()
    if pool is None or record.probe is None or record.error is not None or record.connecting():
        return None
    # Before and after the pool's count: what is handed out or closed between the looks must not count as lost.
    pending, closing = record.pending(), record.closing()
    account = record.probe.account(pool)
    if account is None:
        return None
    held = len(record.open) + len(record.aged) + record.lost
    pending = max(0, max(pending, record.pending()) - account.waiting)
    closing = max(closing, record.closing())
    if record.baseline is None:
        record.baseline = max(0, account.out - held - pending)  # what was out before we came is not ours to judge
    missing = account.out - held - record.baseline
    if now < record.retries_until:
        if missing > record.excess_told:
            return None
        record.retries_until = 0.0  # the books balance without them: none is left
    # Being rolled back or reset: the application has returned it, and the pool has not got it yet.
    returning = 0 if account.home is None else max(0, record.idle() - account.home)
    return missing, pending + returning + closing
