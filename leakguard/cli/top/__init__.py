"""``leakguard top``: what guarded processes hold, live.

On a terminal it is a screen with keys; else it prints one frame and ends. Exit status: 0, 1 if there is no guarded
process, 2 if rich is missing, 4 if a process that was named, or all of them, did not answer.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from leakguard.cli import asking
from leakguard.cli.asking import CLEAN, LEAKS, NOBODY, UNREACHABLE, USAGE, complain, complain_of
from leakguard.cli.output import write
from leakguard.cli.top.screen import plain
from leakguard.cli.top.view import View, rows_of
from leakguard.live.client import snapshots

PLAIN_WIDTH: Final = 80


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    asking.add_pids(parser)
    parser.add_argument("--every", type=_seconds, default=1.0, metavar="S", help="ask every S seconds (default: 1)")


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{value!r}: a number of seconds is wanted, from 0.1 to 3600")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    """Show it. Returns the exit status."""
    pids = arguments.pids or None
    first = snapshots(pids=pids)
    if pids:
        complain_of("top", first.unanswered)
    if not first.snapshots:
        if first.unanswered:
            if not pids:
                complain_of("top", first.unanswered)
            return UNREACHABLE
        complain("top", NOBODY)
        return LEAKS
    if pids and first.unanswered:
        return UNREACHABLE
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        lines = plain(first, rows_of(first.snapshots, View()), PLAIN_WIDTH)
        write("\n".join(line.text.rstrip() for line in lines), None)
        return CLEAN
    try:
        from leakguard.cli.top import app

        app.run(first, lambda: snapshots(pids=pids), arguments.every)
    except ImportError as error:
        complain("top", f"{str(error).splitlines()[0]}: pip install 'leakguard[cli]', or pipe it: leakguard top | cat")
        return USAGE
    return CLEAN
