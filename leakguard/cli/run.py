"""``leakguard run``: any Python command, with leakguard installed before its first line, also in its child processes.

The way in is ``PYTHONPATH``: a directory with a ``sitecustomize`` of ours goes in front. Without ``--fail`` the command
replaces this process, so that nothing (process id, terminal, signals) lies between it and its caller.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from leakguard import bootstrap, reporters
from leakguard.bootstrap import QUIET, VERDICT
from leakguard.settings import resolve, to_environ

LEAKS_FOUND: Final = 3
USAGE: Final = 2
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
_FORWARDED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.usage = "leakguard run [options] [--] COMMAND [ARG ...]"
    parser.add_argument("--threshold", metavar="S", help="seconds until a pool checkout is overdue, or off")
    parser.add_argument("--idle-in-transaction", metavar="S", help="seconds an open transaction may idle, or off")
    parser.add_argument("--owner-grace", metavar="S", help="seconds between the end of an owner and the verdict")
    parser.add_argument("--report", metavar="FILE", help="append the events to this JSON Lines file; %%p: process id")
    parser.add_argument("--fail", action="store_true", help="exit 3 if the command succeeds but certainly leaked")
    parser.add_argument("--quiet", action="store_true", help="write no leak texts to standard error")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="COMMAND", help="any Python command")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit status, or does not return at all."""
    command = arguments.arguments[1:] if arguments.arguments[:1] == ["--"] else arguments.arguments
    if not command:
        return _refuse("run needs a command, such as: leakguard run -- python app.py", USAGE)
    overrides = {
        name: value
        for name in ("threshold", "idle_in_transaction", "owner_grace", "report")
        if (value := getattr(arguments, name)) is not None
    }
    checked = resolve(overrides, source="command line")  # before the command starts; raises SettingsError
    reporters.check(checked.export)
    given = {name: getattr(checked, name) for name in overrides}
    problem = _unwritable(checked.report_path(os.getpid()))
    if problem is not None:
        return _refuse(problem, USAGE)
    program = shutil.which(command[0])
    if program is None:
        return _not_found(command[0])
    environment = _environment(to_environ(given), quiet=arguments.quiet)
    if not arguments.fail:
        return _become(program, command, environment)
    with tempfile.TemporaryDirectory(prefix="leakguard-run-") as folder:
        verdict = Path(folder, "leaked")
        status = _wait_for(program, command, {**environment, VERDICT: str(verdict)})
        return LEAKS_FOUND if status == 0 and verdict.exists() else status


def _environment(settings: Mapping[str, str], *, quiet: bool) -> dict[str, str]:
    home = str(Path(bootstrap.__file__).resolve().parent)
    inherited = os.environ.get("PYTHONPATH")
    # An empty PYTHONPATH is none at all; a trailing separator would put the working directory on the path.
    path = os.pathsep.join([home, inherited]) if inherited else home
    return {**os.environ, **settings, "PYTHONPATH": path, QUIET: "1" if quiet else "0"}


def _become(program: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(program, list(command), dict(environment))
    except OSError as error:
        return _refuse(f"cannot run {command[0]!r}: {error.strerror}", NOT_EXECUTABLE)


def _wait_for(program: str, command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command as a child that our signals reach; its exit status, or our own death by the same signal."""
    try:
        # The terminal's Ctrl-C reaches the child by itself; here it must not end the wait for it.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        child = subprocess.Popen(
            list(command),
            executable=program,
            env=dict(environment),
            preexec_fn=lambda: signal.signal(signal.SIGINT, previous),
        )
    except OSError as error:
        return _refuse(f"cannot run {command[0]!r}: {error.strerror}", NOT_EXECUTABLE)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _frame: child.send_signal(number))
    status = child.wait()
    if status >= 0:
        return status
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
    return 128 - status


def _unwritable(report: Path | None) -> str | None:
    if report is None:
        return None
    try:
        os.close(os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return f"cannot write the report {str(report)!r}: {error.strerror}"
    return None


def _not_found(program: str) -> int:
    if os.sep in program and Path(program).exists():
        return _refuse(
            f"{program!r} is not executable; for a script: leakguard run -- python {program}", NOT_EXECUTABLE
        )
    hint = f"; for a script: leakguard run -- python {program}" if program.endswith(".py") else ""
    return _refuse(f"command not found: {program}{hint}", NOT_FOUND)


def _refuse(text: str, code: int) -> int:
    print(f"leakguard: {text}", file=sys.stderr)
    return code
