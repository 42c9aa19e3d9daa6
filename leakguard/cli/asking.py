"""What `ps`, `dump` and `top` have in common: whom to ask, and what to say where nobody answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Final

from leakguard.cli.output import print_to
from leakguard.live.client import Unanswered
from leakguard.prose.phrases import shown

CLEAN: Final = 0
LEAKS: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 4

NOBODY: Final = (
    "no guarded process on this host. Start one with `leakguard run -- COMMAND`, or have it call "
    "leakguard.install(); it answers from its first database connection on"
)


def add_pids(parser: argparse.ArgumentParser) -> None:
    """The processes to ask, as arguments."""
    parser.add_argument("pids", nargs="*", type=_pid, metavar="PID", help="a process to ask (default: all)")


def _pid(value: str) -> int:
    if not value.isdecimal() or not 0 < int(value) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{value!r}: a process id is wanted")
    return int(value)


def complain(command: str, words: str) -> None:
    """One line on standard error."""
    print_to(sys.stderr, f"leakguard {command}: {words}\n")


def complain_of(command: str, unanswered: Iterable[Unanswered]) -> None:
    """One line for each process that did not answer."""
    for one in unanswered:
        complain(command, shown(one.words))
