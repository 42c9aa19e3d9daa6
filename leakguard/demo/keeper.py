"""Keeps one throw-away PostgreSQL for as long as its owner lives, and leaves nothing behind.

Not imported but run, as ``python -I -S keeper.py DIRECTORY``, in a session of its own. The owner
(:class:`leakguard.demo.postgres.PostgresServer`) holds the other end of standard input: its first line is a JSON
`Order` that says what to run, one program after the other; anything after that, or its end, means *stop now*. A pipe
ends however its owner ends - return, exception, Ctrl-C, SIGTERM, ``os._exit``, SIGKILL - so there is one way to clean
up instead of a ``finally``, an ``atexit`` hook and a signal handler each of which misses a case.

Exit status 0 if it was told to stop; 1 if a program ended by itself, with the end of the log on standard output.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import Final, TypedDict

LOG_NAME: Final = "server.log"
LOG_TAIL: Final = 16_384
"""Bytes of the log that are told to the owner: they fit into a pipe that nobody reads."""
PATIENCE: Final = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Signals to stop with, and the seconds each may take: PostgreSQL's fast and immediate shutdown, then force."""


class Order(TypedDict):
    """What to run, as whom (`None`: as ourselves), and with which environment and nothing else in it."""

    commands: list[list[str]]
    user: int | None
    group: int | None
    environment: dict[str, str]


def main(directory: Path) -> int:
    """Run the order on standard input, remove `directory`, return the exit status."""
    os.umask(0o077)
    signals, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)  # each signal becomes a byte that select() sees; the handlers need do nothing
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    complaint = ""
    try:
        with open(0, "rb", buffering=0) as lifeline:  # unbuffered: what follows the line must stay visible to select()
            line = lifeline.readline()
            if line.endswith(b"\n"):
                complaint = _carry_out(json.loads(line), directory, lifeline, signals)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    sys.stdout.write(complaint)
    return 1 if complaint else 0


def _carry_out(order: Order, directory: Path, lifeline: FileIO, signals: int) -> str:
    """Run the programs until told to stop (the empty string) or one ended too soon (the end of the log)."""
    with (directory / LOG_NAME).open("ab") as log:
        for command in order["commands"]:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=order["environment"],
                user=order["user"],
                group=order["group"],
                extra_groups=None if order["user"] is None else [],
            )
            if not _ended_by_itself(child, lifeline, signals):
                _stop(child)
                return ""
            if child.returncode != 0:
                break
    return (directory / LOG_NAME).read_bytes()[-LOG_TAIL:].decode(errors="replace") or "it said nothing\n"


def _ended_by_itself(child: subprocess.Popen[bytes], lifeline: FileIO, signals: int) -> bool:
    """Wait without polling: True when the child ended, False when it is time to stop it."""
    while child.poll() is None:
        ready, _, _ = select.select([lifeline.fileno(), signals], [], [])
        if lifeline.fileno() in ready or set(os.read(signals, 64)) != {signal.SIGCHLD}:
            return False
    return True


def _stop(child: subprocess.Popen[bytes]) -> None:
    for number, seconds in PATIENCE:
        child.send_signal(number)
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
