"""A private, throw-away PostgreSQL for the demo, the tests, the benchmarks and the examples.

::

    with PostgresServer(max_connections=20) as server:
        psycopg.connect(server.dsn())

It starts in about a second, as root too (PostgreSQL refuses root, so it runs as another user then), listens on
127.0.0.1 and on a socket in its own temporary directory, keeps nothing, and is gone at the end whatever that end is:
``leakguard/demo/keeper.py`` watches over it. There is no password: while it runs, every user of this machine may
connect to it. Only for POSIX systems.

``python -m leakguard.demo.postgres`` runs one until Ctrl-C; ``--bindir`` prints where its programs are.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import quote, urlencode

from leakguard.demo import keeper
from leakguard.demo.programs import (
    BIND_FAILED,
    Account,
    PostgresError,
    environment,
    failure,
    find_bindir,
    find_bindirs,
    may_enter,
    runnable,
    server_account,
    version_of,
)

__all__ = ["USER", "PostgresError", "PostgresServer", "find_bindir", "find_bindirs", "main"]

USER: Final = "leakguard"
"""The superuser, and the only role, of a new server."""

_START_TIMEOUT: Final = 60.0
_SOCKET_PATH_LIMIT: Final = 103  # sun_path: 108 bytes on Linux, 104 elsewhere, with the closing zero
_DIRECTORY_PREFIX: Final = "leakguard-pg-"
_SETTINGS: Final[Mapping[str, str | int]] = {
    "listen_addresses": "127.0.0.1",
    "lc_messages": "C",  # texts of errors are what exhaustion is recognised by: they must not depend on the machine
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "autovacuum": "off",  # its workers come and go in pg_stat_activity, and get in the way of CREATE DATABASE
    "shared_buffers": "16MB",
}


class PostgresServer:
    """One PostgreSQL server, as a context manager or by `start()` and `stop()`.

    `max_connections` is small, so that exhaustion comes soon; `settings` are more settings of the server, and win over
    ours. `bindir` is where ``initdb`` and ``postgres`` are (default: `find_bindir()`). `port` and `version` (such as
    ``"16.14"``) have their values once it is started. Methods raise `PostgresError`. Not thread-safe: one thread
    starts and stops it; the rest may be read from any.
    """

    def __init__(
        self,
        *,
        max_connections: int = 20,
        settings: Mapping[str, str | int] | None = None,
        bindir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.port = 0
        self.version = ""
        self.directory: Path | None = None
        self._settings = {**_SETTINGS, "max_connections": max_connections, **(settings or {})}
        self._bindir = bindir
        self._keeper: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and return when the server takes connections."""
        if self._keeper is not None:
            raise PostgresError("this server is started already")
        if os.name != "posix":
            raise PostgresError("the throw-away PostgreSQL needs a POSIX system")
        bindir = Path(self._bindir).resolve() if self._bindir else find_bindir()
        for attempt in range(3):
            try:
                self._start(bindir)
                return
            except BaseException as error:
                self.stop()
                # Between choosing a free port and binding it, another program may have taken it.
                taken = isinstance(error, PostgresError) and BIND_FAILED in str(error)
                if not taken or attempt == 2:
                    raise

    def stop(self) -> None:
        """Stop the server and remove its directory; both are gone on return. Does nothing when it is not started."""
        running, self._keeper = self._keeper, None
        if running is None or os.getpid() != self._owner:  # a forked child must not stop its parent's server
            return
        with running:
            assert running.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                # The word, not only the end of the pipe: a forked child may hold another copy of our end.
                running.stdin.write(b"stop\n")
        if self.directory is not None:
            shutil.rmtree(self.directory, ignore_errors=True)  # in case that somebody killed the keeper

    def wait(self) -> None:
        """Block until the server ends by itself."""
        if self._keeper is not None:
            self._keeper.wait()

    def dsn(self, dbname: str = "postgres", **params: str | int) -> str:
        """The connection URI (``postgresql://``) of a database; `params` are more parameters of libpq."""
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{quote(dbname, safe='')}{query}"

    def log_text(self) -> str:
        """What the server has logged so far; empty before the start and after the end."""
        try:
            return (self.directory / keeper.LOG_NAME).read_text(errors="replace") if self.directory else ""
        except FileNotFoundError:
            return ""

    def _start(self, bindir: Path) -> None:
        account = server_account()
        directory = self.directory = _make_directory(account)
        try:
            self._keeper = _launch_keeper(directory)
        except BaseException:
            directory.rmdir()
            raise
        self._owner = os.getpid()
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        bindir = runnable(bindir, directory, account)
        self.version = version_of(bindir, directory, account)
        self.port = _free_port()
        order = keeper.Order(
            commands=[_initdb(bindir, directory), _postgres(bindir, directory, {**self._settings, "port": self.port})],
            user=account.uid if account else None,
            group=account.gid if account else None,
            environment={**environment(), "HOME": str(directory), "TMPDIR": str(directory)},
        )
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(json.dumps(order).encode() + b"\n")
        self._wait_until_ready(directory, self._keeper)

    def _wait_until_ready(self, directory: Path, running: subprocess.Popen[bytes]) -> None:
        # Ask at the socket in our own directory: at the TCP port, someone else's server might answer. PostgreSQL opens
        # the port before the socket, so it is ready too.
        address = str(directory / f".s.PGSQL.{self.port}")
        deadline = time.monotonic() + _START_TIMEOUT
        while running.poll() is None:
            if _takes_connections(address):
                return
            if time.monotonic() > deadline:
                raise failure(f"was not ready after {_START_TIMEOUT:.0f} s", self.log_text())
            time.sleep(0.01)
        assert running.stdout is not None
        raise failure("did not start", running.stdout.read().decode(errors="replace"))


def _make_directory(account: Account | None) -> Path:
    """A new directory that `account` can reach: the parents are never touched, so they have to allow it already."""
    longest = _SOCKET_PATH_LIMIT - len(f"/{_DIRECTORY_PREFIX}12345678/.s.PGSQL.65535")
    for base in dict.fromkeys(Path(name).resolve() for name in (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if len(os.fsencode(base)) <= longest and os.access(base, os.W_OK | os.X_OK) and may_enter(base, account):
            return Path(tempfile.mkdtemp(prefix=_DIRECTORY_PREFIX, dir=base))
    who = f"user {account.name}" if account else "us"
    raise PostgresError(f"no temporary directory with a short path that {who} may enter: set TMPDIR to one")


def _launch_keeper(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # Isolated: it needs the standard library alone, and nobody's sitecustomize should run in it.
        [sys.executable, "-I", "-S", keeper.__file__, str(directory)],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=environment(),
        start_new_session=True,  # Ctrl-C in a terminal reaches the whole group: the keeper has to outlive that
    )


def _initdb(bindir: Path, directory: Path) -> list[str]:
    options = ["-A", "trust", "-U", USER, "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    return [str(bindir / "initdb"), "-D", str(directory / "data"), *options]


def _postgres(bindir: Path, directory: Path, settings: Mapping[str, str | int]) -> list[str]:
    everything = {"unix_socket_directories": str(directory), **settings}
    options = [part for name, value in everything.items() for part in ("-c", f"{name}={value}")]
    return [str(bindir / "postgres"), "-D", str(directory / "data"), *options]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _takes_connections(address: str) -> bool:
    """Log in at a Unix socket and leave: what ``pg_isready`` does, without the program."""
    body = f"user\0{USER}\0database\0postgres\0\0".encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5.0)
        try:
            client.connect(address)
            client.sendall(struct.pack("!ii", len(body) + 8, 3 << 16) + body)
            welcome = client.recv(1)
            client.sendall(b"X\0\0\0\4")
            while client.recv(4096):  # until the server has hung up: from then on the slot is free again
                pass
        except OSError:
            return False
    return welcome == b"R"  # an authentication message; "E" is an error, such as "the database system is starting up"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of this module. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m leakguard.demo.postgres", description="Run a throw-away PostgreSQL until Ctrl-C."
    )
    parser.add_argument("--bindir", action="store_true", help="only print the directory of the server's programs")
    parser.add_argument("--max-connections", type=int, default=20, metavar="N", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end in either case
    try:
        if arguments.bindir:
            print(find_bindir())
            return 0
        with PostgresServer(max_connections=arguments.max_connections) as server:
            print(server.dsn(), flush=True)
            print(f"PostgreSQL {server.version} runs until you press Ctrl-C.", file=sys.stderr, flush=True)
            server.wait()
            print("PostgreSQL has ended by itself.", file=sys.stderr)
            return 1
    except PostgresError as error:
        print(error, file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
