"""What the page shows, before it is HTML: one model for event files and for running processes.

Foreign strings stand here as they came; `leakguard.html.data` makes them harmless, all of them, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias, get_args

from leakguard.known import Standing
from leakguard.model import Frame

Verdict: TypeAlias = Literal["leak", "suspect", "advice", "held"]
"""How sure it is; ``held`` is a connection of a running process that nothing speaks against."""

VERDICTS: Final = get_args(Verdict)
"""All of them, the worst first."""

Fact: TypeAlias = tuple[str, tuple[str, ...]]
"""A label and its lines."""

LIMIT: Final = 20_000
"""How many holds a page shows one by one, and how many spans it draws; the page says how many there were beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Lines of source by their numbers. `mark` is the acquiring call in line `line`, as columns."""

    lines: tuple[tuple[int, str], ...]
    line: int
    mark: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """One hold of a bug (or one finding about a pool): the row in a table, and what unfolds below it.

    `held_for` is in seconds, null for a finding about a pool. `stack` is how it was acquired, `now` where its owner is;
    `kept_by` the reference path, a line a step.
    """

    what: tuple[str, ...]
    since: datetime | None
    held_for: float | None
    owner: str
    state: str
    pid: int | None
    facts: tuple[Fact, ...]
    stack: tuple[Frame, ...]
    now: tuple[Frame, ...]
    kept_by: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """Everything with one fingerprint.

    `counts` are exact, the `holds` those that are known one by one; `left_out` counts the ones beyond the page's limit.
    `longest` is in seconds. `standing` is null without a baseline.
    """

    fingerprint: str
    verdict: Verdict
    standing: Standing | None
    standing_why: str
    counts: tuple[tuple[str, int], ...]
    place: str
    function: str
    code: str
    how: str
    excerpt: Excerpt | None
    stack: tuple[Frame, ...]
    why: str
    fix: str
    cure: tuple[str, ...]
    facts: tuple[Fact, ...]
    longest: float
    last: datetime | None
    holds: tuple[Hold, ...]
    left_out: int


Fate: TypeAlias = Literal["ended", "unknown", "lost"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One hold on the time line of its pool: held for certain from `start` to `seen`.

    What came then: it ``ended``; or nobody has said so up to `until`, the end of its process or of the time line; or
    the connection is gone, and with it the pool has ``lost`` the slot.
    """

    fingerprint: str
    start: datetime
    seen: datetime
    until: datetime
    fate: Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An exact count of a pool, by fingerprint: at the moment of a snapshot, or when an acquire found nothing left.

    `refused` is how many acquires have failed so far, 0 for a mere snapshot; `error` is what the latest was told.
    """

    time: datetime
    refused: int
    held: int
    lost: int
    capacity: int | None
    error: str
    holders: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The time line of one pool in one process; `capacity` null is no limit, or none that is known.

    `left_out` counts the spans beyond the page's limit; `places` names the fingerprints that are no bug of the page.
    """

    name: str
    process: str
    capacity: int | None
    start: datetime
    end: datetime
    spans: tuple[Span, ...]
    left_out: int
    samples: tuple[Sample, ...]
    facts: tuple[Fact, ...]
    places: tuple[tuple[str, str], ...]

    @property
    def refused(self) -> int:
        """How many acquires have failed for want of a connection."""
        return max((sample.refused for sample in self.samples), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process: its name, and what is worth saying about it. `trouble` is what should not be overlooked."""

    name: str
    trouble: bool
    lines: tuple[str, ...]
    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The whole page. `headline` says how much of everything, `about` what it is made from, `caption` what the time
    lines can show and what they cannot; `notes` are the lines that could not be read, and the like."""

    live: bool
    made_at: datetime
    headline: str
    about: str
    caption: str
    notes: tuple[str, ...]
    tracks: tuple[Track, ...]
    bugs: tuple[Bug, ...]
    processes: tuple[Process, ...]
