"""``leakguard demo``: a leaky little shop on a real PostgreSQL, leaks found and explained."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

_HINT: Final = "pip install 'leakguard[demo]'"
_SHORTEST: Final = 8.0
"""With fewer seconds, the bugs come too fast to follow, and the slow ones do not come to an end."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--seconds", type=_seconds, default=11.0, metavar="S", help="traffic (default: %(default)g s)")
    parser.add_argument("--keep", action="store_true", help="at the end keep the server and the leaks until Ctrl-C")
    parser.add_argument("--report", metavar="FILE", help="append the events to this file, as JSON Lines")


def run(arguments: argparse.Namespace) -> int:
    """Run it. Returns 0 if all that was planted was found and nothing else, 1 if not, 2 or 4 if it cannot run."""
    try:
        from leakguard.demo import main
        from leakguard.demo.postgres import PostgresError, find_bindir
    except ImportError as error:
        return _refuse(f"{str(error).splitlines()[0]}: {_HINT}", 2)
    report: str | None = arguments.report
    if report is not None:
        try:
            with Path(report).open("a"):
                pass
        except OSError as error:
            return _refuse(f"cannot write {report}: {error.strerror}", 2)
    try:
        find_bindir()
    except PostgresError as error:
        return _refuse(str(error), 2)
    try:
        return main.run(seconds=arguments.seconds, keep=arguments.keep, report=report)
    except PostgresError as error:
        return _refuse(str(error), 4)


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r}: a number of seconds is wanted, at least {_SHORTEST:g}")
    return seconds


def _refuse(words: str, status: int) -> int:
    print(f"leakguard demo: {words}", file=sys.stderr)
    return status
