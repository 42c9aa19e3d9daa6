"""The command line: ``leakguard run | demo | report``.

Exit codes: 0 clean, 1 leaks found, 2 usage, 3 ``run --fail``, 4 could not connect or attach, 70 internal error.
Whatever a user can cause is one line on standard error, never a traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

USAGE: Final = 2
INTERNAL_ERROR: Final = 70


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the reference is generated from it."""
    from leakguard import __version__
    from leakguard.cli import demo, doctor, dump, ps, report, run, top

    parser = _Parser(
        prog="leakguard",
        description="Find database connection leaks from inside a Python application.",
        epilog="exit codes: 0 clean, 1 leaks found, 2 usage, 3 run --fail, 4 could not connect or attach, "
        "70 internal error",
    )
    parser.add_argument("--version", action="version", version=f"leakguard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module, text in (
        ("run", run, "run a Python command with leakguard installed before its first line"),
        ("demo", demo, "watch a leaky little shop on a real PostgreSQL being found out"),
        ("report", report, "group and explain the events of JSON Lines files"),
        ("ps", ps, "list the guarded processes of this host"),
        ("dump", dump, "say what guarded processes hold right now, with owners and stacks"),
        ("top", top, "show what guarded processes hold, live"),
        ("doctor", doctor, "say who has the connections of a PostgreSQL server, and which line to change"),
    ):
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


class _Parser(argparse.ArgumentParser):
    """Repeats what it does not understand without the password that may be in it: a DSN in the wrong place."""

    def error(self, message: str) -> NoReturn:
        from leakguard.redact import message as without_secrets

        super().error(without_secrets(message))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `argv` is without the program's name; by default ``sys.argv[1:]``."""
    try:
        arguments = build_parser().parse_args(argv)
        return int(arguments.run(arguments))
    except BrokenPipeError:  # `leakguard report ... | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from leakguard.errors import SettingsError

        if isinstance(error, SettingsError):
            print(error, file=sys.stderr)
            return USAGE
        said = f"{type(error).__name__}: {error}"
        print(f"leakguard: internal error: {said}; please report it with the command that you ran", file=sys.stderr)
        return INTERNAL_ERROR
