"""The lines of a block: a headline, then labelled columns; code and paths are never wrapped, sentences are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from leakguard.cures import Cure, cure
from leakguard.model import Frame, Kind, Leak, Site
from leakguard.prose.marker import call_span
from leakguard.prose.phrases import TEXT_LIMIT, frame_words, plural, shown, verdict

WIDTH: Final = 80
"""Columns of a block, where paths and code allow it."""
FRAMES_SHOWN: Final = 10
"""How many frames of a stack are shown; a recursion must not bury the rest of the report."""
_LABEL: Final = len("called from: ")
_NOT_CURED: Final = frozenset[Kind]({"idle_in_transaction", "nested_acquire"})
"""What another way to acquire would not help."""


def headline(word: str, *parts: str, color: bool) -> str:
    """The first line of a block: the verdict, then the parts, two spaces apart. Never wrapped, it ends in a path."""
    return f"{verdict(word, color)} " + "  ".join(parts)


def acquisition(leak: Leak, *, all_frames: bool = False) -> list[str]:
    """The line that acquired the connection and the application's way there; for a pool, the line that created it."""
    hold = leak.hold
    if hold is None:
        return source(leak.site, "where the pool was created")
    how = f"by {shown(hold.library)} {shown(hold.operation)}".rstrip()
    return [*source(leak.site, how, hold.operation), *callers(hold.stack, leak.site, all_frames=all_frames)]


def source(site: Site | None, how: str, operation: str = "") -> list[str]:
    """The function, and the source line with a marker under the call that did it (as far as that can be told)."""
    if site is None:
        return [f"  no application frame on the stack ({how})"]
    head = f"  in {shown(site.function)}, {how}"
    if not site.code:
        return [head]
    code = shown(site.code)
    start, end = call_span(code, operation)
    return [f"{head}:", f"      {code}", " " * (6 + start) + "~" * (end - start)]


def callers(stack: Sequence[Frame], site: Site | None, *, all_frames: bool = False) -> list[str]:
    """The application's way to the site, innermost first; the frames of libraries are only counted.

    Where there is no site, they are all there is to see, and so are shown.
    """
    if all_frames or site is None:
        frames, hidden, label = list(stack), 0, "stack"
    else:
        label = "called from"
        frames = [frame for frame in stack if frame.app]
        hidden = len(stack) - len(frames)
        if frames and (frames[0].file, frames[0].line) == (site.file, site.line):
            del frames[0]
    shown_frames = [frame_words(frame) for frame in (frames if all_frames else frames[:FRAMES_SHOWN])]
    if len(frames) > len(shown_frames):
        shown_frames.append(f"({plural(len(frames) - len(shown_frames), 'more frame')})")
    if hidden:
        shown_frames.append(f"({plural(hidden, 'library frame')} hidden)")
    return listed(label, shown_frames)


def listed(label: str, items: Iterable[str]) -> list[str]:
    """A labelled column, one item a line, never wrapped. No items, no lines."""
    return [f"  {label + ':' if at == 0 else '':{_LABEL}}{item}" for at, item in enumerate(items)]


def packed(label: str, pieces: Iterable[str | None], width: int) -> list[str]:
    """Pieces that belong together, as many on a line as fit; a piece is never broken. None is left out."""
    lines: list[str] = []
    for piece in pieces:
        if piece is None:
            continue
        if lines and 2 + _LABEL + len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f", {piece}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(piece)
    return listed(label, lines)


def sentences(label: str, text: str, width: int) -> list[str]:
    """A sentence or two, wrapped between words; `code` in backquotes stays in one piece."""
    line = shown(" ".join(text[: 2 * TEXT_LIMIT].split()))  # the errors of servers have lines of their own
    lines: list[str] = []
    for word in re.findall(r"(?:`[^`]*`|\S)+", line):
        if lines and 2 + _LABEL + len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return listed(label, lines)


def remedy(leak: Leak, width: int, kept_by: str | None = None) -> list[str]:
    """What to do: where the source makes clear what is wrong, that, and the line to write instead."""
    found = cure_of(leak)
    lines = sentences("fix", found.sentence if found is not None else leak.advice, width)
    lines += sentences("kept by", kept_by, width) if kept_by is not None else []
    return [*lines, *(instead(found.after) if found is not None else ())]


def instead(code: str) -> list[str]:
    """The lines to write instead."""
    return listed("instead", map(shown, code.splitlines()))


def cure_of(leak: Leak) -> Cure | None:
    """What to write instead of the line that acquired, or that created the pool; None where the source is not at hand,
    has changed meanwhile, or leaves it open."""
    site, hold = leak.site, leak.hold
    if site is None or leak.kind in _NOT_CURED:
        return None
    if hold is not None:
        return cure(site.file, site.line, site.function, hold.library, hold.operation, code=site.code)
    return cure(
        site.file, site.line, site.function, leak.pool.library if leak.pool is not None else "", "", code=site.code
    )
