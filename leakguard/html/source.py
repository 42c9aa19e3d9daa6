"""Lines around a place, where somebody asked for them: they are not in the events, but in files of this machine.

Never without being asked, and only of files below one directory: a file of events may come from anywhere, and could
name any file to have it read out.
"""

from __future__ import annotations

import tokenize
from dataclasses import replace
from pathlib import Path
from typing import Final

from leakguard import redact
from leakguard.html.page import Excerpt

_AROUND: Final = 3
_FILE_LIMIT: Final = 2_000_000


class Source:
    """The Python files below a directory. A file is read once."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._files: dict[str, tuple[str, ...]] = {}

    def around(self, file: str, excerpt: Excerpt) -> Excerpt:
        """The excerpt with the lines before and after it; as it is where the file says something else there by now."""
        lines = self._lines(file)
        at = excerpt.line - 1
        if not 0 <= at < len(lines) or redact.code_line(lines[at]) != excerpt.lines[0][1]:
            return excerpt
        shown = list(range(max(at - _AROUND, 0), min(at + _AROUND + 1, len(lines))))
        while not lines[shown[0]].strip():
            del shown[0]
        while not lines[shown[-1]].strip():
            del shown[-1]
        depth = min((_indent(lines[number]) for number in shown if lines[number].strip()), default=0)
        moved = _indent(lines[at]) - depth
        return replace(
            excerpt,
            lines=tuple((number + 1, _redacted(lines[number], depth)) for number in shown),
            mark=(excerpt.mark[0] + moved, excerpt.mark[1] + moved),
        )

    def covers(self, file: str) -> bool:
        """Whether the file is one of those that may be read."""
        return bool(self._lines(file))

    def _lines(self, file: str) -> tuple[str, ...]:
        if file not in self._files:
            self._files[file] = self._read(file)
        return self._files[file]

    def _read(self, file: str) -> tuple[str, ...]:
        try:
            path = Path(file).resolve()
            if path.suffix != ".py" or not path.is_relative_to(self._root) or path.stat().st_size > _FILE_LIMIT:
                return ()
            with tokenize.open(path) as stream:
                return tuple(line.expandtabs() for line in stream.read().splitlines())
        except (OSError, ValueError, SyntaxError, LookupError):
            return ()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _redacted(line: str, depth: int) -> str:
    """A line without secrets, indented as far as it stands out from the others."""
    return " " * max(_indent(line) - depth, 0) + redact.code_line(line)
