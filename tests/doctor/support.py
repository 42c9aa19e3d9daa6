"""Servers that can be filled, a pooler in front of them, and what a process would say of the connections of a test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from leakguard.demo.postgres import PostgresServer
from leakguard.demo.programs import server_account
from leakguard.incident.doctor.claims import Reported
from leakguard.incident.doctor.dsn import Target, resolve
from leakguard.incident.doctor.examine import Sources, examination
from leakguard.incident.doctor.model import Backend, Capacity, Diagnosis, Endpoint, ServerFacts, Slot
from leakguard.integrations.drivers import PSYCOPG
from leakguard.model import HoldNow, Now, PoolNow, Snapshot
from leakguard.version import __version__
from tests.factories import make_hold, make_owner

SLOTS = 12
"""max_connections of a server that is to be filled; 3 of them are reserved."""
PASSWORD = "hunter2-not-to-be-seen"

_ROLES = f"""
    CREATE ROLE app LOGIN; CREATE ROLE other LOGIN;
    CREATE ROLE narrow LOGIN CONNECTION LIMIT 2;
    CREATE ROLE rescue LOGIN REPLICATION; GRANT pg_monitor, pg_signal_backend TO rescue;
    SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN CONNECTION LIMIT 2 PASSWORD '{PASSWORD}';
    SET password_encryption = 'md5'; CREATE ROLE digest LOGIN PASSWORD '{PASSWORD}';
"""
_HBA = """
local all all trust
host all scram,digest 127.0.0.1/32 md5
host all nobody_may 127.0.0.1/32 reject
hostssl all tls_only 127.0.0.1/32 trust
hostnossl all tls_only 127.0.0.1/32 reject
host all all 127.0.0.1/32 trust
"""


@contextmanager
def filled_server(bindir: Path) -> Iterator[PostgresServer]:
    """A small server with the roles of these tests, and a database that takes two connections."""
    with PostgresServer(max_connections=SLOTS, bindir=bindir) as server:
        assert server.directory is not None
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute(_ROLES)
            admin.execute("CREATE DATABASE small CONNECTION LIMIT 2")
            hba = server.directory / "data" / "pg_hba.conf"
            hba.write_text(_HBA)
            admin.execute("SELECT pg_reload_conf()")
        yield server


def dsn_of(server: PostgresServer, role: str, dbname: str = "postgres", **params: str | int) -> str:
    """The DSN of a role."""
    return server.dsn(dbname, **params).replace("leakguard@", f"{role}@")


@contextmanager
def filled(dsn: str, **params: Any) -> Iterator[list[psycopg.Connection[Any]]]:
    """Connections until the server takes no more."""
    with ExitStack() as stack:
        held: list[psycopg.Connection[Any]] = []
        refused = 0
        while refused < 5 and len(held) < 100:  # whoever was here before may not have left altogether
            try:
                held.append(stack.enter_context(closing(psycopg.connect(dsn, autocommit=True, **params))))
                refused = 0
            except psycopg.OperationalError:
                refused += 1
                time.sleep(0.02)
        yield held


def until(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait for something that a server or another process does, no longer than needed."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def idle_server(server: PostgresServer) -> None:
    """Wait until nobody is connected any more."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender')"
        " AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        until(lambda: admin.execute(query).fetchone() == (0,), "everybody to leave")


# --------------------------------------------------------------------------------------------- what a process would say


def hold_of(connection: psycopg.Connection[Any], **changes: Any) -> HoldNow:
    """This test as the holder of a connection. What `HoldNow` has no field for is the hold's."""
    now = {
        name: changes.pop(name)
        for name in ("fingerprint", "now", "suspected", "proven", "allowed", "kept_by", "cure")
        if name in changes
    }
    held_for = changes.pop("held_for", 30.0)
    hold = make_hold(
        **{
            "server": PSYCOPG.server(connection),
            "owner": make_owner(pid=os.getpid(), host=os.uname().nodename),
            "held_for": held_for,
            "acquired_at": datetime.now(UTC) - timedelta(seconds=changes.pop("ago", 0.0)),
            "state": PSYCOPG.state(connection),
            **changes,
        }
    )
    given: dict[str, Any] = {
        "fingerprint": "8f21c0a4d9e1",
        "now": Now(owner="running", stack=()),
        "suspected": (),
        "proven": False,
        "allowed": None,
        "kept_by": None,
        "cure": None,
    }
    return HoldNow(hold=hold, **given | now)


def pool_of(*idle: psycopg.Connection[Any], **changes: Any) -> PoolNow:
    """A pool of this test with these connections at home."""
    servers = tuple(server for connection in idle if (server := PSYCOPG.server(connection)) is not None)
    given: dict[str, Any] = {
        "name": "main",
        "library": "psycopg_pool",
        "fingerprint": "0123456789ab",
        "created_at": None,
        "open": len(servers),
        "held": 0,
        "lost": 0,
        "pending": 0,
        "timeouts": 0,
        "capacity": 10,
        "error": None,
        "idle": servers,
    }
    return PoolNow(**given | changes)


def snapshot_of(*holds: HoldNow, pools: Sequence[PoolNow] = (), **changes: Any) -> Snapshot:
    """This process as it would answer."""
    given: dict[str, Any] = {
        "time": datetime.now(UTC),
        "version": __version__,
        "pid": os.getpid(),
        "parent_pid": os.getppid(),
        "process": "python app.py",
        "host": os.uname().nodename,
        "python": "3.11",
        "started_at": datetime.now(UTC),
        "settings": {},
        "pools": tuple(pools),
        "holds": holds,
        "left_out": 0,
        "leaks": (),
        "acquired": len(holds),
        "released": 0,
        "held": len(holds),
        "leaked": 0,
        "internal_errors": 0,
        "dropped_events": 0,
    }
    return Snapshot(**given | changes)


def examined(dsn: str, *snapshots: Snapshot, console: str | None = None, reported: Reported | None = None) -> Diagnosis:
    """What the doctor says."""
    sources = Sources(
        processes=lambda: (snapshots, []),
        reported=reported or Reported(),
        console=resolve(console) if console is not None else None,
    )
    with examination(target_of(dsn), sources) as (_, diagnosis):
        return diagnosis


def target_of(dsn: str) -> Target:
    return resolve(dsn, {})


def slot_of(diagnosis: Diagnosis, backend_pid: int) -> Slot:
    """The slot of a backend."""
    (found,) = [slot for slot in diagnosis.joined.slots if slot.backend.pid == backend_pid]
    return found


# ------------------------------------------------------------------------------------------------- facts by hand

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def backend(pid: int = 991, **changes: Any) -> Backend:
    given: dict[str, Any] = {
        "pid": pid,
        "kind": "client backend",
        "visible": True,
        "database": "shop",
        "user": "app",
        "application": "",
        "client": "10.0.0.7",
        "client_port": 51234,
        "started_at": NOW - timedelta(hours=1),
        "state": "idle",
        "state_since": NOW - timedelta(minutes=10),
        "transaction_since": None,
        "wait": None,
        "statement": None,
        "blocked_by": (),
    }
    return Backend(**given | changes)


def facts(*backends: Backend, **changes: Any) -> ServerFacts:
    capacity = Capacity(
        max_connections=100,
        superuser_reserved=3,
        reserved=0,
        used=len(backends),
        starting=0,
        hidden=0,
        walsenders=0,
        max_wal_senders=10,
        roles=(),
        databases=(),
    )
    given: dict[str, Any] = {
        "now": NOW,
        "clock_ahead": 0.0,
        "version": "16.1",
        "endpoint": Endpoint(host="10.0.0.5", port=5432, user="app", database="shop"),
        "own_pid": 1,
        "own_client": None,
        "role": "app",
        "degraded": False,
        "through_pooler": False,
        "is_here": False,
        "capacity": capacity,
        "settings": {"port": "5432"},
        "unset": (),
        "overridden": (),
        "rescuers": ("rescue",),
        "backends": backends,
    }
    return ServerFacts(**given | changes)


# ------------------------------------------------------------------------------------------------------- PgBouncer

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@dataclass
class Bouncer:
    """A running PgBouncer."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def dsn(self, role: str, dbname: str = "postgres") -> str:
        return f"postgresql://{role}@127.0.0.1:{self.port}/{dbname}"

    @property
    def console(self) -> str:
        return self.dsn("leakguard", "pgbouncer")


@contextmanager
def pgbouncer(
    server: PostgresServer,
    *,
    mode: str,
    size: int = 4,
    clients: int = 50,
    console: str = "leakguard",
    database: str = "postgres",
    **more: str,
) -> Iterator[Bouncer]:
    """PgBouncer in front of a server, with a pool of `size` for every database and role."""
    assert PGBOUNCER is not None
    account = server_account()
    directory = Path(tempfile.mkdtemp(prefix="leakguard-pgbouncer-", dir="/tmp"))
    process: subprocess.Popen[bytes] | None = None
    try:
        directory.chmod(0o755)
        if account is not None:
            os.chown(directory, account.uid, account.gid)
        port = free_port()
        users = directory / "users.txt"
        users.write_text("".join(f'"{name}" ""\n' for name in ("app", "other", "leakguard", "rescue", "stats")))
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": directory,
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": mode,
            "default_pool_size": size,
            "max_client_conn": clients,
            "admin_users": console,
            "stats_users": "stats",
            "logfile": directory / "log",
            "server_login_retry": 1,
            **more,
        }
        lines = ["[databases]", f"{database} = host=127.0.0.1 port={server.port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        config = directory / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(
            [PGBOUNCER, "-q", str(config)],
            stderr=subprocess.DEVNULL,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        until(lambda: _listens(port, process), "PgBouncer")
        yield Bouncer(port, directory, process)
    finally:
        if process is not None:
            process.terminate()
            process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "PgBouncer has ended"
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------------------------------------- servers of other kinds


@contextmanager
def listening(answer: Any) -> Iterator[int]:
    """A port where `answer` is called with each connection, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_answered, args=(answer, link), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _answered(answer: Any, link: socket.socket) -> None:
    with link:
        try:
            answer(link)
        except OSError:
            pass


def translated(port: int, words: bytes) -> Any:
    """What forwards to a server, and says `words` instead of the text of its errors: a language that nobody knows."""

    def answer(link: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server, shut_down(link):
            threading.Thread(target=_pumped, args=(link, server), daemon=True).start()
            while True:
                kind, size = _exactly(server, 1), _exactly(server, 4)
                if not kind or not size:
                    return
                body = _exactly(server, int.from_bytes(size, "big") - 4)
                if kind == b"E":
                    parts = [b"M" + words if part[:1] == b"M" else part for part in body.split(b"\0") if part]
                    body = b"\0".join(parts) + b"\0\0"
                link.sendall(kind + (len(body) + 4).to_bytes(4, "big") + body)

    return answer


@contextmanager
def shut_down(link: socket.socket) -> Iterator[None]:
    """Hang up at the end, although another thread reads."""
    try:
        yield
    finally:
        link.shutdown(socket.SHUT_RDWR)


def _pumped(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(4096):
            if data == b"\0\0\0\x08\x04\xd2\x16\x2f":  # an SSLRequest: not here
                source.sendall(b"N")
                continue
            target.sendall(data)
    except OSError:
        pass


def _exactly(link: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (more := link.recv(count - len(found))):
        found += more
    return found
