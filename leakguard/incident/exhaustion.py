"""The note on the exception: who holds the connections, grouped by the line that acquired them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from leakguard.model import Cause, Exhausted, Site
from leakguard.wording import duration

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
