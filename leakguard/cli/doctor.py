"""``leakguard doctor``: the server's side of an incident, joined with the processes that hold its connections."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from leakguard.cli.asking import CLEAN, LEAKS, UNREACHABLE, USAGE, complain
from leakguard.cli.output import UserError, write
from leakguard.cli.report import read
from leakguard.incident.doctor import render, terminate
from leakguard.incident.doctor.claims import Reported
from leakguard.incident.doctor.doors import ShutOutError
from leakguard.incident.doctor.dsn import DriverError, DsnError, looks_like_dsn, resolve
from leakguard.incident.doctor.examine import BrokenOffError, Sources, examination
from leakguard.incident.doctor.model import CAPACITY, Diagnosis
from leakguard.incident.doctor.terminate import Choice, Ending
from leakguard.model import Snapshot, plain
from leakguard.prose.holders import with_cures
from leakguard.prose.phrases import shown
from leakguard.reporters.text import wants_color


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "leakguard doctor [DSN] [options]"
    parser.add_argument("dsn", nargs="?", metavar="DSN", help="the server (default: DATABASE_URL, else as libpq does)")
    parser.add_argument("--bouncer", metavar="DSN", help="PgBouncer's console (default: tried where a pooler answers)")
    parser.add_argument(
        "--report", nargs="+", action="extend", type=Path, default=[], metavar="FILE", help="event files of other hosts"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="form of the answer (default: text)")
    parser.add_argument("--terminate", action="store_true", help="say which backends of proven leaks it would end")
    parser.add_argument("--yes", action="store_true", help="with --terminate: end them")
    for name, metavar, kind, words in (
        ("fingerprint", "HEX", str, "with --terminate: the holds of this bug instead"),
        ("process", "PID", int, "with --terminate: the holds of this process instead"),
        ("backend", "PID", int, "with --terminate: the hold of this backend instead"),
    ):
        parser.add_argument(f"--{name}", action="append", type=kind, default=[], metavar=metavar, help=words)


def run(arguments: argparse.Namespace) -> int:
    """Examine the server. Returns the exit status."""
    try:
        return _run(arguments)
    except (UserError, DsnError, DriverError) as error:
        return _complain(str(error), USAGE)


def _run(arguments: argparse.Namespace) -> int:
    choice = _choice(arguments)
    # psycopg warns of what goes wrong while it cleans up behind an error that is told anyway.
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    target = resolve(arguments.dsn)
    reported = Reported()
    sources = Sources(
        processes=_processes,
        reported=reported,
        console=resolve(arguments.bouncer, where="the DSN of --bouncer") if arguments.bouncer is not None else None,
    )
    _read(arguments.report, reported)
    try:
        with examination(target, sources) as (entry, diagnosis):
            chosen = terminate.chosen(diagnosis.joined, choice) if arguments.terminate else ()
            endings = terminate.end(entry.connection, chosen, really=arguments.yes)
    except ShutOutError as error:
        code = _complain(render.refusal_line(error.attempts[0].endpoint, error.refusal), UNREACHABLE)
        if error.refusal.kind in CAPACITY:
            write(_shut_out_body(error, as_json=arguments.format == "json"), None)
        return code
    except BrokenOffError as error:
        return _complain(f"the server let us in, and then: {error}", UNREACHABLE)
    unmet = terminate.unmet(diagnosis.joined, choice) if arguments.terminate else []
    write(_body(diagnosis, endings, unmet, arguments), None)
    return LEAKS if diagnosis.problem else CLEAN


def _choice(arguments: argparse.Namespace) -> Choice:
    choice = Choice(
        fingerprints=frozenset(arguments.fingerprint),
        backends=frozenset(arguments.backend),
        processes=frozenset(arguments.process),
    )
    if choice and not arguments.terminate:
        raise UserError("--fingerprint, --process and --backend choose what --terminate ends: give that too")
    if arguments.yes and not arguments.terminate:
        raise UserError("--yes confirms --terminate: give that too")
    return choice


def _processes() -> tuple[Sequence[Snapshot], Sequence[str]]:
    """What the guarded processes of this host answer, and a sentence about each that could not."""
    from leakguard.live.client import snapshots

    answers = snapshots(why=True)
    return [*map(with_cures, answers.snapshots)], [
        f"{one.words}; what it holds is unknown" for one in answers.unanswered
    ]


def _read(files: Sequence[Path], reported: Reported) -> None:
    if not files:
        return
    if any(map(looks_like_dsn, map(str, files))):  # and it is not repeated, as the name of a missing file would be
        raise UserError("a DSN stands behind --report, which takes everything up to the next option: put the DSN first")
    evidence = read(files, observe=reported.observe)
    for snapshot in evidence.snapshots:
        reported.observe(snapshot)
    for line in evidence.skipped.lines():
        _complain(line, USAGE)


def _body(diagnosis: Diagnosis, endings: Sequence[Ending], unmet: Sequence[str], arguments: argparse.Namespace) -> str:
    if arguments.format == "json":
        return json.dumps(
            {"schema": 1, "doctor": plain(diagnosis), "terminated": plain([*endings]), "not_terminated": [*unmet]},
            indent=2,
        )
    body = render.as_text(diagnosis, color=wants_color(sys.stdout))
    if arguments.terminate:
        body += f"\n\n{render.endings_text(endings, unmet, really=arguments.yes)}"
    return body


def _shut_out_body(error: ShutOutError, *, as_json: bool) -> str:
    """What can be said without the server: who holds connections on this host."""
    snapshots, _ = _processes()
    if as_json:
        told = {"attempts": plain(error.attempts), "processes": plain([*snapshots])}
        return json.dumps({"schema": 1, "doctor": None, **told}, indent=2)
    return render.shut_out_text(error.attempts, snapshots)


def _complain(line: str, code: int) -> int:
    complain("doctor", shown(line))
    return code
