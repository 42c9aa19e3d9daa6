"""The socket of a guarded process: there while it is guarded, closed to others, and not to be disturbed."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import leakguard
from leakguard import runtime
from leakguard.live import PROTOCOL, places, server
from tests.core.support import Pool, wait_until
from tests.live.support import QUESTION, Guest, ask, guarded, program


def live_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == server.NAME]


def test_it_is_there_from_the_first_pool_on(runtime_dir: Path) -> None:
    """Not before: a process that uses no database has none. And it is gone with the guard, its thread too."""
    with leakguard.install(on_leak=lambda _event: None):
        assert live_threads() == []
    with guarded() as guest:
        path = guest.wait()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert all(thread.daemon for thread in live_threads())
    assert list(path.parent.iterdir()) == []
    wait_until(lambda: live_threads() == [])


def test_it_answers_with_a_snapshot(guest: Guest) -> None:
    """One line of JSON, and the end."""
    guest.acquire(2)
    answer = ask(guest.wait())
    assert (answer["protocol"], answer["version"]) == (PROTOCOL, leakguard.__version__)
    assert (answer["snapshot"]["pid"], answer["snapshot"]["held"]) == (os.getpid(), 2)


def test_it_comes_back_after_another_install(guest: Guest) -> None:
    """Uninstalled and installed again in one process."""
    guest.wait()
    guest.guard.uninstall()
    assert not guest.path.exists()
    guest.guard = leakguard.install(on_leak=lambda _event: None)
    guest.acquire()
    assert ask(guest.wait())["snapshot"]["held"] == 1


def test_it_can_be_turned_off(runtime_dir: Path) -> None:
    """By the setting, from the start or later."""
    with guarded(live=False) as guest:
        guest.acquire()
        assert live_threads() == []
        guest.guard.configure(live=True)
        other = Pool(guest.runtime.tracker, "other")
        guest.wait()
        guest.guard.configure(live=False)
        assert not guest.path.exists()
        del other


def test_no_leaks_alone_has_none(runtime_dir: Path) -> None:
    """A block of code is watched, not a process."""
    ours = runtime.Runtime()
    before = runtime.replace_current(ours)
    try:
        with leakguard.no_leaks():
            pool = Pool(ours.tracker)
            pool.putconn(pool.getconn())
            assert live_threads() == []
    finally:
        runtime.replace_current(before)


def test_a_test_run_has_none(runtime_dir: Path) -> None:
    """The pytest plugin has the runtime rest: a thread of ours would be seen by tests that count threads."""
    with guarded() as guest:
        guest.wait()
        guest.runtime.rest()
        assert not guest.path.exists()
        guest.acquire()
        other = Pool(guest.runtime.tracker, "other")
        assert live_threads() == []
        guest.runtime.rise()
        del other


def test_a_watched_pool_makes_a_process_guarded(runtime_dir: Path) -> None:
    """`watch()` has it too."""
    ours = runtime.Runtime()
    before = runtime.replace_current(ours)
    guard = ours.watch(lambda _pool: True, {"on_leak": lambda _event: None})
    try:
        pool = Pool(ours.tracker)
        connection = pool.getconn()
        path = Path(places.socket_of(places.directory_of(str(runtime_dir), os.geteuid()), os.getpid()))
        wait_until(path.exists)
        assert ask(path)["snapshot"]["held"] == 1
        pool.putconn(connection)
    finally:
        guard.uninstall()
        runtime.replace_current(before)


@pytest.mark.parametrize(
    ("question", "error"),
    [
        (b"\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[" * 3000 + b"\n", "not JSON"),
        (b'{"ask": "eval"}\n', "the only question"),
        (b"[]\n", "the only question"),
        (b'{"ask": "snapshot", "why": 1}\n', "why: true or false"),
        (b'{"ask": "snapshot", "holds": -1}\n', "a number from 0 on"),
        (b'{"ask": "snapshot", "hold": "1; DROP"}\n', "a number from 0 on"),
    ],
)
def test_what_is_no_question_is_refused_in_words(guest: Guest, question: bytes, error: str) -> None:
    """And the next caller is answered as ever."""
    path = guest.wait()
    assert error in ask(path, question)["error"]
    assert "snapshot" in ask(path)


def test_a_question_without_end_is_cut(guest: Guest) -> None:
    """At four thousand bytes."""
    path = guest.wait()
    begun = time.monotonic()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        try:
            link.sendall(b"x" * 10_000_000)
        except OSError:  # hung up on in the midst of it
            pass
        try:
            assert link.recv(1) == b""
        except ConnectionResetError:
            pass
    assert time.monotonic() - begun < server.ASK_WITHIN
    assert "snapshot" in ask(path)


def test_a_question_in_pieces_is_answered(guest: Guest) -> None:
    """However slowly it is asked."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(guest.wait()))
        for at in range(len(QUESTION)):
            link.sendall(QUESTION[at : at + 1])
        assert link.recv(10) == b'{"protocol'


def test_many_who_ask_nothing_are_in_nobodys_way(guest: Guest) -> None:
    """The oldest of them make room, and who asks is answered at once."""
    path = guest.wait()
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(5 * server.CALLERS_LIMIT)]
        for link in idle:
            link.settimeout(10)
            link.connect(str(path))
        begun = time.monotonic()
        assert "snapshot" in ask(path)
        assert idle[0].recv(1) == b""
        assert time.monotonic() - begun < server.ASK_WITHIN


@pytest.mark.slow
def test_who_asks_nothing_is_hung_up_on(guest: Guest) -> None:
    """After two seconds."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(guest.wait()))
        assert link.recv(1) == b""


def test_who_does_not_read_is_in_nobodys_way(guest: Guest) -> None:
    """An answer that is larger than the system's buffers waits for its reader, and others do not."""
    guest.pool.size = None
    guest.acquire(10_000)
    path = guest.wait()
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(10)
        link.connect(str(path))
        link.sendall(QUESTION)
        for _ in range(3):
            assert ask(path, b'{"ask": "snapshot", "holds": 1}\n')["snapshot"]["held"] == 10_000
        said = b""
        while piece := link.recv(1 << 20):
            said += piece
        assert said.endswith(b"}\n")
        assert len(said) > 400_000
    guest.conns.clear()


def test_who_goes_away_is_forgotten(guest: Guest) -> None:
    """Before, in the midst of and after the question."""
    path = guest.wait()
    for question in (b"", b'{"ask"', QUESTION):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(str(path))
                link.sendall(question)
    assert "snapshot" in ask(path)
    assert guest.runtime.internal_errors == 0


def test_an_error_of_ours_is_counted_and_told(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on."""
    path = guest.wait()

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(guest.runtime._desk, "census", broken)
    assert "ZeroDivisionError" in ask(path)["error"]
    monkeypatch.undo()
    assert guest.runtime.internal_errors == 1


def test_a_socket_that_the_application_closed_is_made_anew(guest: Guest) -> None:
    """Daemons close everything; what they open in its place is not ours to accept at, nor to close."""
    path = guest.wait()
    service = guest.runtime._desk._server._service  # type: ignore[union-attr]
    assert service is not None
    number = service._listener.fileno()  # type: ignore[union-attr]
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path.parent.parent / "own"))
        own.listen(5)
        os.dup2(own.fileno(), number)
        ask_once(path)  # wakes the thread, which finds that this is not its socket
        wait_until(lambda: service._listener is not None and service._listener.fileno() != number)
        assert "snapshot" in ask(path)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path.parent.parent / "own"))
            own.settimeout(10)
            accepted, _ = own.accept()
            accepted.close()
        os.fstat(number)  # it is still open
        os.close(number)


def ask_once(path: Path) -> None:
    """Ask, and be content with no answer."""
    try:
        ask(path)
    except OSError:
        pass


def test_a_directory_of_somebody_else_is_said_once(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The application goes on, guarded; there is no view of it."""
    (runtime_dir / f"leakguard-{os.geteuid()}").mkdir(mode=0o755)
    monkeypatch.setattr(places, "parents", lambda: [str(runtime_dir)])
    with guarded() as guest:
        wait_until(lambda: bool(caplog.records))
        guest.acquire(3)
        Pool(guest.runtime.tracker, "other")
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "has mode 0755, not 0700" in caplog.text
        assert len(leakguard.holds()) == 3
        wait_until(lambda: live_threads() == [])


# ------------------------------------------------------------------------------------------------- other processes

HOLDER = """
from psycopg_pool import ConnectionPool
leakguard.install(on_leak=lambda event: None)
pool = ConnectionPool(os.environ["LAB_DSN"], min_size=1, max_size=2, open=True, name="main")
conn = pool.getconn()
directory = f"{os.environ['XDG_RUNTIME_DIR']}/leakguard-{os.geteuid()}"
def wait_for(pid):
    while not os.path.exists(f"{directory}/{pid}.sock"):
        time.sleep(0.005)
wait_for(os.getpid())
"""


@pytest.fixture
def sockets(runtime_dir: Path) -> Path:
    """The directory of this user's sockets."""
    return runtime_dir / f"leakguard-{os.geteuid()}"


@pytest.mark.slow
def test_it_answers_while_the_application_spins(sockets: Path, dsn: str) -> None:
    """The main thread holds the interpreter's lock whenever it can."""
    with program(HOLDER + "print('ready', flush=True)\nwhile True: pass\n", LAB_DSN=dsn) as process:
        begun = time.monotonic()
        answer = ask(sockets / f"{process.pid}.sock")
        assert time.monotonic() - begun < 1.0  # 20 ms on a machine that does nothing else
    assert answer["snapshot"]["held"] == 1


@pytest.mark.slow
def test_a_forked_child_has_its_own(sockets: Path, dsn: str) -> None:
    """With its own pid and holds; the parent's stays the parent's, also when the child ends."""
    source = (
        HOLDER
        + """
child = os.fork()
if child == 0:
    own = ConnectionPool(os.environ["LAB_DSN"], min_size=1, max_size=2, open=True, name="child's")
    kept = [own.getconn(), own.getconn()]
    wait_for(os.getpid())
    sys.stdin.readline()
    os._exit(0)
wait_for(child)
print("ready", flush=True)
print(child, flush=True)
os.waitpid(child, 0)
print("gone", flush=True)
time.sleep(60)
"""
    )
    with program(source, LAB_DSN=dsn) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        child = int(process.stdout.readline())
        wait_until(lambda: ask(sockets / f"{child}.sock")["snapshot"]["held"] == 2)
        parents, childs = ask(sockets / f"{process.pid}.sock"), ask(sockets / f"{child}.sock")
        assert (parents["snapshot"]["pid"], parents["snapshot"]["held"]) == (process.pid, 1)
        assert (childs["snapshot"]["pid"], childs["snapshot"]["held"]) == (child, 2)
        assert childs["snapshot"]["parent_pid"] == process.pid
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "gone\n"
        assert ask(sockets / f"{process.pid}.sock")["snapshot"]["held"] == 1


@pytest.mark.slow
def test_it_is_gone_when_the_process_ends(sockets: Path, dsn: str) -> None:
    """In order, with an exception, and it does not keep the process alive."""
    for end in ("sys.exit(0)", "raise SystemExit('no')", "1 / 0"):
        with program(HOLDER + f"print('ready', flush=True)\nsys.stdin.readline()\n{end}\n", LAB_DSN=dsn) as process:
            assert list(sockets.iterdir()) == [sockets / f"{process.pid}.sock"]
            process.communicate("\n", timeout=20)
        assert list(sockets.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.skipif(shutil.which("python3", path=os.defpath) is None, reason="nobody needs a Python of the system's")
def test_other_users_are_kept_out(sockets: Path, dsn: str, tmp_path: Path) -> None:
    """By the directory, by the socket's mode, and where both have been opened by a careless hand, by the server."""
    client = "import socket, sys\nlink = socket.socket(socket.AF_UNIX)\nlink.settimeout(10)\n"
    client += 'link.connect(sys.argv[1])\nlink.sendall(b\'{"ask": "snapshot"}\\n\')\nprint(len(link.recv(100)))\n'

    def as_nobody(path: Path) -> subprocess.CompletedProcess[str]:
        command = ["/usr/bin/env", "-i", "python3", "-c", client, str(path)]
        return subprocess.run(
            command, user=65534, group=65534, extra_groups=[], capture_output=True, text=True, timeout=30, check=False
        )

    with program(HOLDER + "print('ready', flush=True)\ntime.sleep(60)\n", LAB_DSN=dsn) as process:
        path = sockets / f"{process.pid}.sock"
        assert "PermissionError" in as_nobody(path).stderr
        for folder in (sockets.parent, sockets):
            folder.chmod(0o755)
        assert "PermissionError" in as_nobody(path).stderr
        path.chmod(0o666)
        done = as_nobody(path)
        assert (done.stdout, "PermissionError" in done.stderr) in (("0\n", False), ("", False)), done.stderr
        assert "snapshot" in ask(path)


@pytest.mark.slow
def test_gevent_does_not_disturb_it(sockets: Path, dsn: str) -> None:
    """Everything is patched, and the hub spins."""
    pytest.importorskip("gevent")
    source = "from gevent import monkey\nmonkey.patch_all()\n" + HOLDER
    with program(source + "print('ready', flush=True)\nwhile True: pass\n", LAB_DSN=dsn) as process:
        assert ask(sockets / f"{process.pid}.sock")["snapshot"]["held"] == 1
