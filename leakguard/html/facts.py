"""The facts of one hold, for the table of a bug and what unfolds below it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from leakguard import model
from leakguard.html.page import Excerpt, Fact, Hold
from leakguard.model import Frame, Now, PoolInfo, Site
from leakguard.prose import marker, phrases

DIRECT: Final = "direct connections"
"""The time line of what belongs to no pool."""

NOWHERE: Final = Now(owner="unknown", stack=())
"""Where an owner is of which nothing is told."""


def hold(
    held: model.Hold,
    now: Now,
    at: datetime,
    *,
    what: tuple[str, ...],
    more: Iterable[Fact] = (),
    kept_by: tuple[str, ...] = (),
) -> Hold:
    """A hold as of `at`; `what` has been found of it, `more` is what else is known."""
    owner = held.owner
    return Hold(
        what=what,
        since=held.acquired_at,
        held_for=held.held_for,
        owner=" ".join(phrases.owner_words(owner.test, owner.task, owner.thread, owner.labels.items())),
        state=phrases.state_words(held.state) or "",
        pid=owner.pid,
        facts=facts(
            ("owner", [", ".join(phrases.owner_pieces(owner))]),
            ("now", phrases.now_words(now, owner)),
            ("held for", [", ".join(phrases.held_pieces(held, at))]),
            ("state", [phrases.state_words(held.state)]),
            ("last sql", [held.last_statement]),
            ("server", [", ".join(phrases.server_pieces(held.server))]),
            ("pool", [held.pool]),
            ("trace", [f"{held.trace.trace_id}, span {held.trace.span_id}" if held.trace is not None else None]),
            *more,
        ),
        stack=held.stack,
        now=now.stack,
        kept_by=kept_by,
    )


def facts(*found: tuple[str, Iterable[str | None]]) -> tuple[Fact, ...]:
    """Those of the labels that have anything to say."""
    told = [(label, tuple(line for line in lines if line)) for label, lines in found]
    return tuple((label, lines) for label, lines in told if lines)


def pool_words(pool: PoolInfo) -> tuple[Fact, ...]:
    """The library of a pool, how full it was, and where it was made."""
    created = phrases.frame_words(pool.created_at) if pool.created_at is not None else None
    return facts(("library", [pool.library]), ("created at", [created]))


def how(held: model.Hold | None) -> str:
    """By which call."""
    return f"by {held.library} {held.operation}".rstrip() if held is not None else "where the pool was created"


def excerpt(site: Site | None, operation: str) -> Excerpt | None:
    """The one line that the site itself carries, with the call in it marked."""
    if site is None or not site.code:
        return None
    return Excerpt(lines=((site.line, site.code),), line=site.line, mark=marker.call_span(site.code, operation))


def place(site: Site | None, stack: tuple[Frame, ...]) -> str:
    """``path:line`` of the site, or else of the innermost frame there is."""
    if site is None and stack:
        return f"{phrases.place(None)} {phrases.frame_words(stack[0])}"
    return phrases.place(site)
