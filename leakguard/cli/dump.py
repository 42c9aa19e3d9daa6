"""``leakguard dump``: what guarded processes hold right now, with owners and stacks, the worst first.

Exit status: 0, 1 if a process has found a certain leak, or holds what it suspects, or if there is no guarded process,
2 if the page cannot be written, 4 if a process that was named, or all of them, did not answer.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from leakguard.cli import asking
from leakguard.cli.asking import CLEAN, LEAKS, NOBODY, UNREACHABLE, USAGE, complain, complain_of
from leakguard.cli.output import UserError, write
from leakguard.live.client import snapshots
from leakguard.model import Snapshot
from leakguard.prose.holders import is_clean, render_snapshots, with_cures
from leakguard.reporters.text import wants_color


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    asking.add_pids(parser)
    parser.add_argument(
        "--format", choices=("text", "json", "html"), default="text", help="form of the answer (default: text)"
    )
    parser.add_argument("--output", type=Path, metavar="PATH", help="write the answer there, not to standard output")
    parser.add_argument(
        "--why", action="store_true", help="search for what keeps the oldest connection of each place alive"
    )
    parser.add_argument("--all", action="store_true", help="text: every hold and every frame, not the first few")


def run(arguments: argparse.Namespace) -> int:
    """Print it. Returns the exit status."""
    answers = snapshots(pids=arguments.pids or None, why=arguments.why)
    complain_of("dump", answers.unanswered)
    if not answers.snapshots:
        if not answers.unanswered:
            complain("dump", NOBODY)
            return LEAKS
        return UNREACHABLE
    told = [with_cures(snapshot) for snapshot in answers.snapshots]
    try:
        write(_body(told, arguments), arguments.output)
    except UserError as error:
        complain("dump", str(error))
        return USAGE
    if arguments.pids and answers.unanswered:
        return UNREACHABLE
    return CLEAN if all(map(is_clean, told)) else LEAKS


def _body(told: list[Snapshot], arguments: argparse.Namespace) -> str:
    match arguments.format:
        case "json":
            return "\n".join(json.dumps(snapshot.to_dict()) for snapshot in told)
        case "html":
            from leakguard.html import MissingJinjaError
            from leakguard.html import render_snapshots as render_page

            try:
                return render_page(told)
            except MissingJinjaError as error:
                raise UserError(f"--format html {error}") from None
        case _:
            color = arguments.output is None and wants_color(sys.stdout)
            return render_snapshots(told, color=color, everything=arguments.all)
