"""A guarded process to ask, and a directory for sockets that nobody else uses."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import leakguard
from leakguard import runtime
from leakguard.live import places
from leakguard.runtime import Runtime
from tests.core.support import Connection, Pool, wait_until

ROOT = Path(__file__).parents[2]
QUESTION = b'{"ask": "snapshot"}\n'


@contextmanager
def private_runtime_dir() -> Iterator[Path]:
    """A directory that only this user may enter, with a path that is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="lg", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


class Guest:
    """This very process, guarded, with a pool of plain objects. `conns` keeps what is held."""

    def __init__(self, **settings: Any) -> None:
        self.runtime = Runtime()
        self._before = runtime.replace_current(self.runtime)
        self.guard = leakguard.install(on_leak=lambda _event: None, **settings)
        self.pool = Pool(self.runtime.tracker, "main", size=8)
        self.conns: list[Connection] = []

    def acquire(self, times: int = 1) -> None:
        """Hold so many more connections."""
        for _ in range(times):
            self.conns.append(self.pool.getconn())

    @property
    def path(self) -> Path:
        """Where its socket is to be."""
        directory = places.directory_of(os.environ["XDG_RUNTIME_DIR"], os.geteuid())
        return Path(places.socket_of(directory, os.getpid()))

    def wait(self) -> Path:
        """The socket, once it is there."""
        wait_until(self.path.exists)
        return self.path

    def end(self) -> None:
        """Uninstall."""
        self.guard.uninstall()
        runtime.replace_current(self._before)


@contextmanager
def guarded(**settings: Any) -> Iterator[Guest]:
    """This process, guarded, for the length of a ``with`` block."""
    guest = Guest(**settings)
    try:
        yield guest
    finally:
        guest.end()


def ask(path: Path, question: bytes = QUESTION) -> Any:
    """The answer to a question, as JSON; None where the connection was ended without one."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        link.sendall(question)
        said = b""
        while piece := link.recv(1 << 20):
            said += piece
    return json.loads(said) if said else None


@contextmanager
def program(source: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program of its own, guarded from its first line to its end; it has said "ready" when the block begins."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    text = f"import os, sys, time\nimport leakguard\n{textwrap.dedent(source)}"
    process = subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "ready\n", line + (process.stderr.read() if process.stderr is not None else "")
        yield process
    finally:
        process.kill()
        process.communicate()
