"""The live screen of `leakguard top`: asks in the background, draws, listens to keys. Needs rich."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from leakguard.cli.top.keys import Keys
from leakguard.cli.top.screen import Line, details, frame, page_of
from leakguard.cli.top.view import Key, Row, View, all_rows, arranged, pressed
from leakguard.live.client import Answers, snapshots
from leakguard.prose.holders import with_cures

if TYPE_CHECKING:
    from rich.text import Text

LOOK_EVERY: Final = 0.2
"""Seconds between two looks at whether something new was answered, while no key is pressed."""
_STYLES: Final = {"LEAK": "bold red", "SUSPECT": "bold yellow", "HELD": "", "ALLOWED": ""}


class Sampler:
    """Asks again and again, in a thread of its own: a process that hangs must not hang the screen."""

    def __init__(self, ask: Callable[[], Answers], first: Answers, every: float) -> None:
        self.latest = first
        self._ask = ask
        self._every = every
        self._over = threading.Event()
        threading.Thread(target=self._run, name="leakguard-top", daemon=True).start()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self.latest = self._ask()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()


class Search:
    """What keeps the chosen hold alive, asked of its process in the background."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.found: Sequence[str] = ("searching ...",)
        threading.Thread(target=self._run, name="leakguard-top-why", daemon=True).start()

    def _run(self) -> None:
        pid, hold = self.key
        answers = snapshots(pids=[pid], hold=hold, why=True)
        kept = [one.kept_by for snapshot in answers.snapshots for one in snapshot.holds]
        words = [one.words for one in answers.unanswered] or ["it was given back meanwhile"]
        self.found = (kept[0] or words) if kept else words


class Top:
    """The state of the screen."""

    def __init__(self, first: Answers) -> None:
        self.view = View()
        self._answers = first
        self._all = all_rows(first.snapshots)
        self._arranged: tuple[object, list[Row]] = (None, [])
        self._row: Row | None = None
        self._gone = False
        self._search: Search | None = None

    def take(self, latest: Answers) -> bool:
        """Show what was answered last, unless the user has paused; whether that is news."""
        if self.view.paused or latest is self._answers:
            return False
        self._answers = latest
        self._all = all_rows(latest.snapshots)
        return True

    def press(self, key: str, height: int) -> bool:
        """Do what a key means; False to leave."""
        rows = self._rows()
        if self.view.opened and key == "w" and self.view.chosen is not None:
            self._search = Search(self.view.chosen)
            return True
        after = pressed(self.view, key, rows, page_of(height))
        if after is None:
            return False
        if after.opened and not self.view.opened:
            self._row, self._search = None, None
        self.view = after
        return True

    def lines(self, width: int, height: int) -> list[Line]:
        """What is to be seen."""
        rows = self._rows()
        if not self.view.opened:
            return frame(self._answers, rows, self.view, width, height)
        found = next((row for row in self._all if row.key == self.view.chosen), None)
        if found is not None:
            self._row = _cured(found)
        if self._row is None:  # it was given back between the look and the key
            self.view = replace(self.view, opened=False)
            return frame(self._answers, rows, self.view, width, height)
        note = "" if found is not None else "given back meanwhile; this is how it was"
        why = self._search.found if self._search is not None else None
        return details(self._row, why, note, self.view, width, height)

    def _rows(self) -> list[Row]:
        """What the list has. There may be ten thousand, so they are put in order only when something has changed."""
        wanted = (id(self._all), self.view.pattern, self.view.sort, self.view.backwards)
        if self._arranged[0] != wanted:
            self._arranged = wanted, arranged(self._all, self.view)
        return self._arranged[1]


def _cured(row: Row) -> Row:
    snapshot = with_cures(replace(row.snapshot, holds=(row.one,)))
    return replace(row, one=snapshot.holds[0])


def run(first: Answers, ask: Callable[[], Answers], every: float) -> None:
    """Show the screen until the user leaves it. Raises ImportError without rich."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False, soft_wrap=False)
    top, sampler = Top(first), Sampler(ask, first, every)
    try:
        with Keys(sys.stdin.fileno()) as keys, Live(console=console, screen=True, auto_refresh=False) as live:
            size, dirty = console.size, True
            while True:
                if top.take(sampler.latest) or console.size != size or dirty or top.view.opened:
                    size = console.size
                    live.update(_text(top.lines(size.width, size.height)), refresh=True)
                key = keys.read(LOOK_EVERY)
                dirty = key is not None
                if key and not top.press(key, size.height):
                    return
    except (KeyboardInterrupt, EOFError):
        pass
    finally:
        sampler.end()


def _text(lines: Sequence[Line]) -> Text:
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        shown = Text(line.text)
        if line.verdict is not None:
            shown.stylize(_STYLES[line.verdict], 2, 2 + len(line.verdict))
        if line.chosen:
            shown = Text(f">{line.text[1:]}", style="reverse")
        elif line.strong:
            shown.stylize("bold")
        text.append_text(shown)
        if number < len(lines) - 1:
            text.append("\n")
    return text
