"""The lines of `leakguard top`, for a screen of any size. Pure functions, without colour: only styles are named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from leakguard.cli.top.view import SHORT_STATES, Row, View, place_of
from leakguard.judging.wording import duration
from leakguard.live.client import Answers
from leakguard.model import Snapshot
from leakguard.prose.holders import Holders, block, found_words
from leakguard.prose.phrases import plural, shown

HEAD_LINES: Final = 4
"""Lines above the holds: what there is in all, the pools, the order and the filter, the columns."""
FOOT_LINES: Final = 1
KEYS: Final = "q quit  space pause  s sort  r reverse  / filter  arrows choose  enter details"
DETAIL_KEYS: Final = "esc back  arrows scroll  w why is it still alive  space pause"
_COLUMNS: Final = f"  {'VERDICT':8} {'HELD':7} {'UNUSED':7} {'STATE':9} {'PID':>7}  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the screen; `verdict` is the word in it that says how bad it is."""

    text: str
    chosen: bool = False
    strong: bool = False
    verdict: str | None = None


def page_of(height: int) -> int:
    """How many holds, or lines of details, a screen of this height has room for."""
    return max(height - HEAD_LINES - FOOT_LINES, 1)


def frame(answers: Answers, rows: Sequence[Row], view: View, width: int, height: int) -> list[Line]:
    """The list of holds, as high as the screen, each line at most as wide."""
    page, room = page_of(height), max((width - len(_COLUMNS)) * 3 // 5, 12)
    at = place_of(rows, view.chosen)
    first = min(max(at - page // 2, 0), max(len(rows) - page, 0))
    lines = [*head(answers, rows, view, width, room)]
    for number, row in enumerate(rows[first : first + page], start=first):
        lines.append(replace(row_line(row, room), chosen=number == at))
    if not rows:
        lines.append(Line(text="  nothing is held" + (" that the filter lets through" if view.pattern else "")))
    lines += [Line(text="")] * (height - FOOT_LINES - len(lines))
    lines.append(Line(text=f"filter: {view.pattern}_  (enter: done, esc: none)" if view.typing else KEYS, strong=True))
    return [replace(line, text=fitted(line.text, width)) for line in lines[:height]]


def plain(answers: Answers, rows: Sequence[Row], width: int) -> list[Line]:
    """One frame with every hold, for a pipe or a file: nothing of a hold is cut."""
    room = max((len(row.where) for row in rows), default=12)
    return [*head(answers, rows, View(), width, room), *(row_line(row, room) for row in rows)]


def head(answers: Answers, rows: Sequence[Row], view: View, width: int, room: int) -> Iterator[Line]:
    """What stands above the holds; their places have `room` columns."""
    snapshots = answers.snapshots
    held = sum(snapshot.held for snapshot in snapshots)
    latest = max((snapshot.time for snapshot in snapshots), default=None)
    words = f"{len(snapshots)} process{'' if len(snapshots) == 1 else 'es'}, {held} held"
    leaks = ", ".join(_found(snapshots))
    words += f", found: {leaks}" if leaks else ""
    yield Line(text=_with_right(words, _clock(latest, view), width), strong=True)
    yield Line(text=_pools(snapshots, answers) or "no pools")
    order = f"sorted by {view.sort}{', backwards' if view.backwards else ''}"
    chosen = f"filter: {view.pattern}" if view.pattern else "no filter"
    left_out = sum(snapshot.left_out for snapshot in snapshots)
    rest = f", {left_out} more are left out" if left_out else ""
    yield Line(text=f"{order}; {chosen}; {plural(len(rows), 'hold')}{rest}")
    yield Line(text=f"{_COLUMNS}{'WHERE':{room}}  OWNER", strong=True)


def row_line(row: Row, room: int) -> Line:
    """A hold on one line, with so many columns for its place."""
    hold, state = row.one.hold, SHORT_STATES[row.one.hold.state]
    unused = "never" if row.unused is None else duration(row.unused)
    cells = f"{row.verdict:8} {duration(hold.held_for):7} {unused:7} {state:9} {row.snapshot.pid:>7}"
    return Line(text=f"  {cells}  {_tail(row.where, room):{room}}  {row.owner}", verdict=row.verdict)


def details(row: Row, why: Sequence[str] | None, note: str, view: View, width: int, height: int) -> list[Line]:
    """Everything about one hold; `why` is what keeps it alive, `note` what else there is to say."""
    one = row.one if why is None else replace(row.one, kept_by=tuple(why))
    group = Holders(fingerprint=one.fingerprint, verdict=row.verdict, members=((row.snapshot, one),))
    snapshot = row.snapshot
    since = f"{one.hold.acquired_at:%H:%M:%S} UTC"
    body = [f"hold {one.hold.id} of pid {snapshot.pid} ({shown(snapshot.process)}), acquired at {since}", note]
    body += block(group, everything=True, width=width)
    room = max(height - FOOT_LINES, 1)
    first = min(view.scrolled, max(len(body) - room, 0))
    lines = [Line(text=text, strong=at == 0) for at, text in enumerate(body[first : first + room], start=first)]
    lines += [Line(text="")] * (room - len(lines))
    lines.append(Line(text=DETAIL_KEYS, strong=True))
    return [replace(line, text=fitted(line.text, width)) for line in lines[:height]]


def fitted(text: str, width: int) -> str:
    """The text in at most `width` columns, cut at its end."""
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _tail(text: str, width: int) -> str:
    """The end of the text: of a path, that tells most."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}"


def _with_right(left: str, right: str, width: int) -> str:
    """Two texts at the two ends of a line; the left one is cut."""
    return f"{fitted(left, max(width - len(right) - 2, 0)):{max(width - len(right), 0)}}{right}"


def _clock(latest: datetime | None, view: View) -> str:
    time = f"{latest:%H:%M:%S} UTC" if latest is not None else ""
    return f"PAUSED  {time}" if view.paused else time


def _found(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    merged = [found for snapshot in snapshots for found in snapshot.leaks]
    if merged:
        yield from found_words(replace(snapshots[0], leaks=tuple(merged)))


def _pools(snapshots: Sequence[Snapshot], answers: Answers) -> str:
    """The pools, the fullest first."""
    pools = [pool for snapshot in snapshots for pool in snapshot.pools]
    pools.sort(key=lambda pool: -((pool.held + pool.lost) / pool.capacity if pool.capacity else 0.0))
    words = []
    for pool in pools:
        limit = f"/{pool.capacity}" if pool.capacity is not None else ""
        more = [f"{count} {what}" for count, what in ((pool.pending, "waiting"), (pool.lost, "lost")) if count]
        words.append(f'"{shown(pool.name)}" {" ".join([f"{pool.held}{limit}", *more])}')
    words += [f"pid {one.pid}: no answer" for one in answers.unanswered]
    return ", ".join(words)
