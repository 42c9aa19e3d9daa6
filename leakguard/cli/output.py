"""Where a command's words go: standard output, a file, or one line on standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TextIO

from leakguard.prose import phrases
from leakguard.reporters import text


class UserError(Exception):
    """Something that the user can mend; the text is the one line for standard error."""


def write(body: str, output: Path | None) -> None:
    """The body and a newline, to a file that only its owner may read, or to standard output. Raises UserError."""
    if output is None:
        print_to(sys.stdout, f"{body}\n")
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(f"{body}\n")
    except OSError as error:
        raise UserError(f"cannot write {phrases.shown(str(output))}: {error.strerror or error}") from None


def print_to(stream: TextIO, body: str) -> None:
    """The body, with what the stream cannot encode as escapes. Raises UserError."""
    try:
        stream.write(text.encodable(body, stream))
        stream.flush()
    except BrokenPipeError:
        # `| head` has seen enough. The interpreter flushes once more at exit, which must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except OSError as error:
        raise UserError(f"cannot write the report: {error.strerror or error}") from None
