"""What `leakguard top` shows of what was answered: which holds, in which order, which one is chosen. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from leakguard.model import HoldNow, Snapshot, State
from leakguard.prose.holders import ORDER, STATE_WORDS, Verdict, verdict_of
from leakguard.prose.phrases import path, shown

Key: TypeAlias = "tuple[int, int]"
"""What names a hold: its process and its id there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One hold as a line has it. `unused` is None for one that was never used."""

    snapshot: Snapshot
    one: HoldNow
    verdict: Verdict
    unused: float | None
    where: str
    owner: str

    @property
    def key(self) -> Key:
        """Its name."""
        return self.snapshot.pid, self.one.hold.id


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the user has asked for. `typing` is whether the keys go into `pattern`; `opened` whether the chosen hold's
    details are shown, from line `scrolled` on."""

    sort: str = "worst"
    backwards: bool = False
    pattern: str = ""
    typing: bool = False
    paused: bool = False
    chosen: Key | None = None
    opened: bool = False
    scrolled: int = 0


SORTS: Final[Mapping[str, Callable[[Row], tuple[object, ...]]]] = {
    "worst": lambda row: (ORDER.index(row.verdict), -row.one.hold.held_for),
    "held": lambda row: (-row.one.hold.held_for,),
    "unused": lambda row: (-(row.one.hold.held_for if row.unused is None else row.unused),),
    "state": lambda row: (row.one.hold.state, -row.one.hold.held_for),
    "pid": lambda row: (row.snapshot.pid, -row.one.hold.held_for),
    "where": lambda row: (row.where, -row.one.hold.held_for),
    "owner": lambda row: (row.owner, -row.one.hold.held_for),
}
"""The orders, in the order in which a key goes through them."""
SHORT_STATES: Final[Mapping[State, str]] = {**STATE_WORDS, "in_transaction": "in tx", "in_error": "failed tx"}


def rows_of(snapshots: Iterable[Snapshot], view: View) -> list[Row]:
    """The holds that the filter lets through, in order."""
    return arranged(all_rows(snapshots), view)


def all_rows(snapshots: Iterable[Snapshot]) -> list[Row]:
    """Every hold."""
    return [_row(snapshot, one) for snapshot in snapshots for one in snapshot.holds]


def arranged(rows: Iterable[Row], view: View) -> list[Row]:
    """The rows that the filter lets through, in order."""
    pattern = view.pattern.lower()
    found = [row for row in rows if not pattern or pattern in _searched(row)]
    # By name last, so that equal ones do not change places from one look to the next.
    order = SORTS[view.sort]
    return sorted(found, key=lambda row: (*order(row), row.key), reverse=view.backwards)


def _row(snapshot: Snapshot, one: HoldNow) -> Row:
    site, used = one.hold.site, one.hold.last_used_at
    return Row(
        snapshot=snapshot,
        one=one,
        verdict=verdict_of(one),
        unused=None if used is None else max((snapshot.time - used).total_seconds(), 0.0),
        where=f"{path(site.file)}:{site.line}" if site is not None else "?",
        owner=_owner(one),
    )


def _owner(one: HoldNow) -> str:
    """Whose it is, in few words: the task or thread, and what it is labelled with."""
    owner = one.hold.owner
    words = [owner.task or owner.thread or "?", *owner.labels.values()]
    return shown(" ".join([*words, "(ended)"] if one.now.owner == "ended" else words))


def _searched(row: Row) -> str:
    hold, snapshot = row.one.hold, row.snapshot
    texts = (row.verdict, row.where, row.owner, SHORT_STATES[hold.state], hold.pool or "", hold.last_statement or "")
    return shown(" ".join((*texts, str(snapshot.pid), snapshot.process, row.one.fingerprint))).lower()


def place_of(rows: Sequence[Row], key: Key | None) -> int:
    """Where the chosen hold stands; the first line if it is gone."""
    return next((at for at, row in enumerate(rows) if row.key == key), 0)


def pressed(view: View, key: str, rows: Sequence[Row], page: int) -> View | None:
    """The view after a key, where `page` lines of rows fit the screen; None to leave."""
    if view.typing:
        return _typed(view, key)
    if view.opened:
        return _in_details(view, key, page)
    match key:
        case "q" | "ctrl-c":
            return None
        case "space" | "p":
            return replace(view, paused=not view.paused)
        case "s":
            names = list(SORTS)
            return replace(view, sort=names[(names.index(view.sort) + 1) % len(names)])
        case "r":
            return replace(view, backwards=not view.backwards)
        case "/":
            return replace(view, typing=True)
        case "escape":
            return replace(view, pattern="")
        case "enter" if rows:
            return replace(view, opened=True, scrolled=0, chosen=rows[place_of(rows, view.chosen)].key)
    return _moved(view, key, rows, page)


def _moved(view: View, key: str, rows: Sequence[Row], page: int) -> View:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -page, "page-down": page}
    steps |= {"home": -len(rows), "end": len(rows)}
    if not rows or key not in steps:
        return view
    at = min(max(place_of(rows, view.chosen) + steps[key], 0), len(rows) - 1)
    return replace(view, chosen=rows[at].key)


def _typed(view: View, key: str) -> View | None:
    match key:
        case "ctrl-c":
            return None
        case "enter":
            return replace(view, typing=False)
        case "escape":
            return replace(view, typing=False, pattern="")
        case "backspace":
            return replace(view, pattern=view.pattern[:-1])
        case "space":
            return replace(view, pattern=f"{view.pattern} ")
        case _ if len(key) == 1 and key.isprintable():
            return replace(view, pattern=view.pattern + key)
    return view


def _in_details(view: View, key: str, page: int) -> View | None:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page-up": -page, "page-down": page}
    match key:
        case "ctrl-c":
            return None
        case "q" | "escape" | "enter" | "backspace" | "left":
            return replace(view, opened=False)
        case "space" | "p":
            return replace(view, paused=not view.paused)
        case _:
            return replace(view, scrolled=max(view.scrolled + steps.get(key, 0), 0))
