"""The starter of the throw-away PostgreSQL: it starts, it refuses clearly, and it leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from leakguard.demo import postgres, programs
from leakguard.demo.postgres import PostgresError, PostgresServer, find_bindir, find_bindirs

ROOT = Path(__file__).parents[1]
PATIENCE = 20.0

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

# Imports the starter without leakguard's own __init__ and what that needs, so that any Python will do.
HEAD = """
import os, signal, sys, types
package = types.ModuleType("leakguard")
package.__path__ = [sys.argv[1]]
sys.modules["leakguard"] = package
from leakguard.demo.postgres import PostgresServer
"""
OWNER = f"""{HEAD}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
with PostgresServer(bindir=sys.argv[2]) as server:
    print(server.directory, server.port, flush=True)
    sys.stdin.read()
"""
FORK = f"""{HEAD}
with PostgresServer() as server:
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    print(os.listdir(server.directory))
print(os.path.exists(server.directory))
"""


def wait_for(condition: Callable[[], bool]) -> bool:
    """Whether `condition` came true in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def refuses(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def assert_gone(directory: Path, port: int) -> None:
    assert wait_for(lambda: not directory.exists())
    assert wait_for(lambda: refuses(port))


@pytest.fixture
def start_owner() -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path, int]]]:
    """Start a program that owns a server; returns the process and the server's directory and port."""
    started: list[subprocess.Popen[str]] = []

    def start(
        python: str = sys.executable, bindir: Path | None = None, account: programs.Account | None = None
    ) -> tuple[subprocess.Popen[str], Path, int]:
        owner = subprocess.Popen(
            [python, "-c", OWNER, str(ROOT / "leakguard"), str(bindir or find_bindir())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        started.append(owner)
        assert owner.stdout is not None
        directory, port = owner.stdout.readline().split()
        return owner, Path(directory), int(port)

    yield start
    for owner in started:
        with owner:
            owner.kill()


@pytest.mark.slow
@pytest.mark.parametrize("bindir", find_bindirs(), ids=lambda path: path.parent.name)
def test_each_installation_starts_and_stops(bindir: Path) -> None:
    """Every PostgreSQL that can be found serves, says its version, and is gone afterwards."""
    with PostgresServer(bindir=bindir, max_connections=7, settings={"work_mem": "1MB"}) as server:
        with psycopg.connect(server.dsn(application_name="a name & more")) as connection:
            row = connection.execute(
                "SELECT current_setting('max_connections'), current_setting('work_mem'),"
                " current_setting('application_name'), current_setting('server_version')"
            ).fetchone()
        directory = server.directory
        assert directory is not None
        assert "ready to accept connections" in server.log_text()
    assert row is not None
    assert row[:3] == ("7", "1MB", "a name & more")
    assert row[3].startswith(server.version)
    assert_gone(directory, server.port)
    assert server.log_text() == ""


@pytest.mark.slow
def test_the_ready_check_leaves_no_session() -> None:
    """All slots are free at the start: tests count them."""
    with PostgresServer() as server, psycopg.connect(server.dsn()) as connection:
        count = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        assert count.fetchone() == (1,)


@pytest.mark.slow
def test_listens_on_loopback_only() -> None:
    with PostgresServer() as server, psycopg.connect(server.dsn()) as connection:
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        assert server.directory is not None
        assert server.directory.stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_gone_after_an_exception_in_the_body() -> None:
    with pytest.raises(ZeroDivisionError), PostgresServer() as server:
        _ = 1 / 0
    assert server.directory is not None
    assert_gone(server.directory, server.port)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_gone_after_a_signal_to_its_owner(
    start_owner: Callable[..., tuple[subprocess.Popen[str], Path, int]], number: signal.Signals
) -> None:
    """Also when the owner cannot react, as with SIGKILL."""
    owner, directory, port = start_owner()
    assert directory.is_dir()
    owner.send_signal(number)
    assert_gone(directory, port)


@pytest.mark.slow
def test_a_forked_child_does_not_stop_it() -> None:
    listing, exists = subprocess.check_output(
        [sys.executable, "-c", FORK, str(ROOT / "leakguard")], text=True
    ).splitlines()
    assert ".s.PGSQL" in listing
    assert exists == "False"


@pytest.mark.slow
def test_takes_another_port_when_somebody_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        free_port = postgres._free_port
        ports = [rival.getsockname()[1]]
        monkeypatch.setattr(postgres, "_free_port", lambda: ports.pop() if ports else free_port())
        with PostgresServer() as server, psycopg.connect(server.dsn()):
            assert server.port != rival.getsockname()[1]


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line() -> None:
    server = PostgresServer(settings={"shared_buffers": "nonsense"})
    with pytest.raises(PostgresError, match=r"did not start: .*invalid value for parameter") as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert server.directory is not None
    assert wait_for(lambda: not Path(str(server.directory)).exists())


def test_no_programs_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKGUARD_PG_BIN", raising=False)
    monkeypatch.setattr(programs, "_candidates", lambda: iter(()))
    with pytest.raises(PostgresError, match=r"pip install 'leakguard\[demo\]'"):
        find_bindir()


def test_a_wrong_choice_is_an_error_and_not_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LEAKGUARD_PG_BIN", str(tmp_path))
    with pytest.raises(PostgresError, match=f"LEAKGUARD_PG_BIN={tmp_path}"):
        find_bindir()
    with pytest.raises(PostgresError, match=str(tmp_path)):
        PostgresServer(bindir=tmp_path).start()


def test_the_chosen_directory_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEAKGUARD_PG_BIN", raising=False)
    last = find_bindirs()[-1]
    monkeypatch.setenv("LEAKGUARD_PG_BIN", str(last))
    assert find_bindirs() == [last]


@pytest.mark.slow
def test_starting_twice_is_refused() -> None:
    with PostgresServer() as server, pytest.raises(PostgresError, match="started already"):
        server.start()


def test_dsn_quotes() -> None:
    server = PostgresServer()
    assert server.dsn("a b", options="-c x=1") == "postgresql://leakguard@127.0.0.1:0/a%20b?options=-c%20x%3D1"


@as_root
@pytest.mark.slow
def test_root_needs_nothing_of_a_parent_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that only root can reach are copied, a temporary directory that only root can enter is not used."""
    bindir = find_bindir()
    if not (bindir.parent / "share").is_dir():
        pytest.skip("this installation cannot be moved")
    with tempfile.TemporaryDirectory(prefix="leakguard-test-") as closed:
        package = bindir.parents[1]
        for tree in (package, package.with_name(f"{package.name}.libs")):
            shutil.copytree(tree, Path(closed, tree.name), symlinks=True)
        monkeypatch.setattr(tempfile, "tempdir", closed)
        hidden = Path(closed, package.name, bindir.parent.name, bindir.name)
        with PostgresServer(bindir=hidden) as server, psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
            assert server.directory is not None
            assert server.directory.parent != Path(closed)
        assert Path(closed).stat().st_mode & 0o777 == 0o700


@as_root
@pytest.mark.slow
def test_starts_for_an_ordinary_user(start_owner: Callable[..., tuple[subprocess.Popen[str], Path, int]]) -> None:
    account = programs.server_account()
    assert account is not None
    python = next(
        filter(None, map(_python_for_everybody, (sys.executable, shutil.which("python3", path="/usr/bin")))), ""
    )
    bindir = next((path for path in find_bindirs() if programs.may_enter(path / "postgres", account)), None)
    if not python or bindir is None:
        pytest.skip("an ordinary user can enter neither this Python nor this PostgreSQL")
    owner, directory, port = start_owner(python, bindir, account)
    assert directory.stat().st_uid == account.uid
    owner.terminate()
    assert_gone(directory, port)


def _python_for_everybody(python: str | None) -> str:
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    account = programs.server_account()
    assert account is not None
    try:
        done = subprocess.run(
            [python or "", "-c", check], user=account.uid, group=account.gid, extra_groups=[], cwd="/"
        )
    except OSError:
        return ""
    return "" if done.returncode else str(python)


@pytest.mark.slow
def test_the_module_runs_a_server() -> None:
    command = [sys.executable, "-m", "leakguard.demo.postgres"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        with psycopg.connect(owner.stdout.readline().strip()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        owner.terminate()
        assert owner.wait(PATIENCE) == 0


@pytest.mark.slow
def test_the_module_prints_the_directory() -> None:
    command = [sys.executable, "-m", "leakguard.demo.postgres", "--bindir"]
    assert subprocess.check_output(command, text=True, cwd=ROOT).strip() == str(find_bindir())
