"""Events as text for people, on a stream. What stands in it is put together by `leakguard.prose`."""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast

from leakguard.model import Event
from leakguard.prose.events import render_event


class TextReporter:
    """Writes every event that is worth a line to a text stream. Thread-safe: one write an event, no state.

    `stream` None is whatever ``sys.stderr`` is at the time of the event. `color` None means: on a terminal, unless
    ``NO_COLOR`` is set. What the stream raises goes to the caller.
    """

    __slots__ = ("_color", "_stream")

    def __init__(self, stream: TextIO | None = None, color: bool | None = None) -> None:
        self._stream = stream
        self._color = color

    def report(self, event: Event) -> None:
        """Write the event."""
        stream = self._stream if self._stream is not None else cast("TextIO | None", sys.stderr)
        if stream is None:  # a process without a console
            return
        text = render_event(event, color=wants_color(stream) if self._color is None else self._color)
        if text:
            stream.write(encodable(f"leakguard: {text}\n", stream))
            stream.flush()


def wants_color(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours, and nobody has set ``NO_COLOR``."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def encodable(text: str, stream: TextIO) -> str:
    """`text` with what the stream cannot encode written as escapes: a report in ASCII beats an exception."""
    encoding = getattr(stream, "encoding", None)
    return text.encode(encoding, "backslashreplace").decode(encoding) if encoding else text
