"""Keys from a terminal, one at a time, by name."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from types import TracebackType
from typing import Final

_NAMES: Final = {
    b"\r": "enter",
    b"\n": "enter",
    b" ": "space",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x03": "ctrl-c",
    b"\x1b": "escape",
    **{b"\x1b" + kind + b"A": "up" for kind in (b"[", b"O")},
    **{b"\x1b" + kind + b"B": "down" for kind in (b"[", b"O")},
    **{b"\x1b" + kind + b"D": "left" for kind in (b"[", b"O")},
    **dict.fromkeys((b"\x1b[H", b"\x1bOH", b"\x1b[1~", b"\x1b[7~"), "home"),
    **dict.fromkeys((b"\x1b[F", b"\x1bOF", b"\x1b[4~", b"\x1b[8~"), "end"),
    b"\x1b[5~": "page-up",
    b"\x1b[6~": "page-down",
}
_SEQUENCE: Final = rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)"
_BEGUN: Final = rb"\x1b(?:\[[0-?]*[ -/]*|O)?"
ESCAPE_WAIT: Final = 0.05
"""Seconds in which the rest of a sequence follows its escape character; after that, it was the key itself."""


class Keys:
    """The keyboard of a terminal, unbuffered while the ``with`` block lasts, and put back as it was after it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._before = termios.tcgetattr(descriptor)
        self._pending = b""

    def __enter__(self) -> Keys:
        tty.setcbreak(self._descriptor, termios.TCSADRAIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)
        except termios.error:  # it was hung up
            pass

    def read(self, timeout: float) -> str | None:
        """The name of the next key, or the character itself; None after `timeout` seconds, "" for one without a name.

        Raises EOFError once the terminal is gone.
        """
        if not self._pending and not self._more(timeout):
            return None
        while re.fullmatch(_BEGUN, self._pending, re.S) and self._more(ESCAPE_WAIT):
            pass
        key = self._next()
        self._pending = self._pending[len(key) :]
        return _NAMES.get(key) or _character(key)

    def _more(self, timeout: float) -> bool:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return False
        try:
            piece = os.read(self._descriptor, 256)
        except OSError:  # a terminal that was hung up
            piece = b""
        if not piece:
            raise EOFError
        self._pending += piece
        return True

    def _next(self) -> bytes:
        """The bytes of the next key."""
        sequence = re.match(_SEQUENCE, self._pending, re.S)
        if sequence is not None:
            return sequence[0]
        character = re.match(rb"[\xc0-\xff][\x80-\xbf]*|.", self._pending, re.S)
        return character[0] if character is not None else self._pending


def _character(key: bytes) -> str:
    text = key.decode(errors="ignore")
    return text if len(text) == 1 and text.isprintable() else ""
