"""The note on the exception: who holds the connections, grouped by the line that acquired them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from leakguard.judging.refusals import concerns
from leakguard.judging.wording import duration
from leakguard.model import Cause, Exhausted, Site
from leakguard.redact import message
from leakguard.register.records import HoldRecord, PoolRecord, Watch
from leakguard.register.signals import Refused
from leakguard.register.tracker import Tracker
from leakguard.settings import Settings
from leakguard.telling.snapshot import Snapshots

MARK: Final = "leakguard: "
"""How every note of ours begins: what is noted once is copied along when a library wraps the exception."""
SHOWN_GROUPS: Final = 8

_WHAT: Final[dict[Cause, str]] = {
    "pool": "the pool is exhausted",
    "server": "the server is full (max_connections)",
    "reserved": "the server's ordinary slots are full; the rest is reserved",
    "role": "the role's CONNECTION LIMIT is reached",
    "database": "the database's CONNECTION LIMIT is reached",
    "pooler": "the connection pooler is full",
}


class Exhaustion:
    """Tells what is full, and who fills it. Thread-safe: used by the thread whose acquire failed.

    `file_of` has an incident file written, of the event and its note, and gives the line that names it.
    """

    def __init__(
        self, tracker: Tracker, snapshots: Snapshots, file_of: Callable[[Exhausted, str, Settings], str | None]
    ) -> None:
        self._tracker = tracker
        self._snapshots = snapshots
        self._file_of = file_of

    def tell(
        self,
        error: BaseException,
        *,
        watch: Watch,
        pool: PoolRecord | None,
        cause: Cause,
        holds: list[HoldRecord],
        server_words: str | None,
        told: bool,
    ) -> None:
        """Put the holders on the exception, and have an event told if `told`.

        `holds` are those that may fill what is full; `server_words` is what the server said to a pool that could not
        connect.
        """
        noted = note_of(error)
        if noted is not None:  # a library wrapped an exception that has its note already
            add_note(error, noted)
            return
        if told and pool is not None and (cause == "pool" or server_words is not None):
            next(pool.timed_out)
        words = message(server_words) if server_words is not None else None
        now, owner = self._tracker.clock.monotonic(), self._tracker.owners.current()
        filling = _filling(cause, holds, words or str(error))
        event = Exhausted(
            time=self._tracker.clock.now(),
            pid=os.getpid(),
            cause=cause,
            count=1,
            pool=pool.name if pool is not None else None,
            error=words or message(str(error) or type(error).__name__),
            holders=self._snapshots.groups(filling, now),
            held=len(filling),
            capacity=_capacity(pool) if cause == "pool" else None,
            lost=pool.lost + pool.excess_told if pool is not None else 0,
        )
        note = exhaustion_note(
            event,
            lost_at=[point.site() for point in list(pool.lost_at)] if pool is not None else [],
            own=sum(1 for hold in filling if hold.owner is owner),
            owner=owner.label,
            idle=0 if cause == "pool" else sum(record.idle() for record in list(self._tracker.pools.values())),
            server_words=words,
        )
        # Where the pool could not connect at all, nothing of ours is used up.
        used_up = told and (words is None or cause != "pool")
        file = self._file_of(event, note, watch.settings) if used_up else None
        add_note(error, f"{note}\n  {file}" if file is not None else note)
        if used_up:
            self._tracker.signals.put(Refused(watch, event))


def _capacity(pool: PoolRecord | None) -> int | None:
    alive = pool.pool() if pool is not None else None
    return None if pool is None or pool.probe is None or alive is None else pool.probe.capacity(alive)


def _filling(cause: Cause, holds: list[HoldRecord], words: str) -> list[HoldRecord]:
    """Those of the holds that fill what is full; where pools are stacked, the outer one's."""
    outermost = [hold.wire.hold or hold if hold.covered and hold.wire is not None else hold for hold in holds]
    if cause == "pool":
        return [hold for hold in outermost if hold.is_checkout]
    return [hold for hold in outermost if concerns(hold.wire.server if hold.wire is not None else None, cause, words)]


def exhaustion_note(
    event: Exhausted, *, lost_at: Sequence[Site], own: int, owner: str, idle: int, server_words: str | None
) -> str:
    """The lines of the note: what is full, one line a group of holders, lost slots, and whether it is our own doing.

    `own` of the holds are those of the very `owner` whose acquire failed; `idle` connections of this process wait in
    its pools, which counts where it is the server that is full; `server_words` is what the server said to the pool.
    """
    groups = event.holders
    lines = [f"{MARK}{_headline(event, server_words)}"]
    lines += [
        f"  {group.count} x held for up to {duration(group.oldest)}, acquired at {_place(group.site)}"
        for group in groups[:SHOWN_GROUPS]
    ]
    if len(groups) > SHOWN_GROUPS:
        rest = sum(group.count for group in groups[SHOWN_GROUPS:])
        lines.append(f"  {rest} more at {len(groups) - SHOWN_GROUPS} other places")
    if idle:
        lines.append(f"  {idle} more connection(s) idle in the pools of this process")
    if event.lost:
        lines.append(
            f"  {event.lost} slot(s) are lost for good: checkouts that were dropped or closed instead of returned"
        )
        lines += [f"    by one acquired at {_place(site)}" for site in lost_at[:SHOWN_GROUPS]]
    if own:
        lines.append(f"  this very {owner} holds {own} of them and waits for itself: pass that connection on instead")
    return "\n".join(lines)


def _headline(event: Exhausted, server_words: str | None) -> str:
    named = f'pool "{event.pool}": ' if event.pool is not None else ""
    of = f" of {event.capacity}" if event.capacity is not None else ""
    if server_words is not None and event.cause == "pool":
        return f"{named}the pool could not connect, so waiting was in vain; the server said: {server_words}"
    said = f"; the server said: {server_words}" if server_words is not None else ""
    here = "" if event.cause == "pool" else " by this process"
    return f"{named}{_WHAT[event.cause]}: {event.held}{of} connection(s) held{here}{said}"


def _place(site: Site | None) -> str:
    if site is None:
        return "an unknown place (no application frame on the stack)"
    code = f": {site.code}" if site.code else ""
    return f"{site.file}:{site.line} in {site.function}{code}"


def note_of(error: BaseException | None) -> str | None:
    """The note that an exception, or one that it wraps, carries already."""
    for _ in range(5):
        if error is None:
            return None
        for note in getattr(error, "__notes__", ()):
            if str(note).startswith(MARK):
                return str(note)
        error = getattr(error, "orig", None) or error.__cause__
    return None


def add_note(error: BaseException, note: str) -> None:
    """Put the note on the exception, once."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
