"""Asking: who answers, who does not and why, and what of an answer is believed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from leakguard.live import PROTOCOL, client, places
from leakguard.live.answer import AnswerError, read
from leakguard.live.client import Answers, snapshots
from leakguard.version import __version__
from tests.core.support import wait_until
from tests.live.support import Guest, program

DEAD = 2_147_483_600
"""A pid that no process has."""
GUEST = """
from tests.core.support import Pool
from leakguard import runtime
leakguard.install(on_leak=lambda event: None)
pool = Pool(runtime.current().tracker)
conn = pool.getconn()
while not os.path.exists(f"{os.environ['XDG_RUNTIME_DIR']}/leakguard-{os.geteuid()}/{os.getpid()}.sock"):
    time.sleep(0.005)
print("ready", flush=True)
time.sleep(60)
"""


def stop(pid: int) -> None:
    """Stop a process. Its threads may run on for a moment after the signal, and one of them answers."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    wait_until(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in threads))


def troubles(answers: Answers) -> list[tuple[int, str]]:
    return [(one.pid, one.trouble) for one in answers.unanswered]


@pytest.fixture
def directory(runtime_dir: Path) -> Path:
    """Where this user's sockets are."""
    path = Path(places.directory_of(str(runtime_dir), os.geteuid()))
    path.mkdir(mode=0o700)
    return path


@contextlib.contextmanager
def impostor(path: Path, answer: bytes, *, endless: bool = False) -> Iterator[None]:
    """Something that listens there and says `answer` to whoever asks, once or for ever."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            link, _ = listener.accept()
            with link, contextlib.suppress(OSError):  # the caller has heard enough
                link.recv(4096)
                link.sendall(answer)
                while endless and not over.is_set():
                    link.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(5)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            with socket.socket(socket.AF_UNIX) as last:
                last.connect(str(path))
            thread.join(10)


def test_a_guarded_process_answers(guest: Guest) -> None:
    """With what it holds, and nobody is left out."""
    guest.acquire(2)
    guest.wait()
    answers = snapshots()
    assert [snapshot.pid for snapshot in answers.snapshots] == [os.getpid()]
    assert answers.unanswered == ()
    (snapshot,) = answers.snapshots
    assert [one.hold.pool for one in snapshot.holds] == ["main", "main"]
    assert all(one.kept_by is None for one in snapshot.holds)


def test_what_is_asked_is_answered(guest: Guest) -> None:
    """Some holds, one hold, and why it is alive."""
    guest.acquire(3)
    guest.wait()
    (some,) = snapshots(holds=1).snapshots
    assert (len(some.holds), some.left_out) == (1, 2)
    (one,) = snapshots(hold=some.holds[0].hold.id, why=True).snapshots
    assert [found.hold.id for found in one.holds] == [some.holds[0].hold.id]
    assert one.holds[0].kept_by is not None
    assert "`conns`" in "".join(one.holds[0].kept_by)


def test_nobody_is_there(runtime_dir: Path) -> None:
    """No directory, no processes, no error."""
    assert snapshots() == Answers(snapshots=(), unanswered=())


def test_who_is_named_and_not_there_is_told(guest: Guest) -> None:
    """Gone, or not guarded; the others are asked all the same."""
    guest.wait()
    answers = snapshots(pids=[os.getppid(), DEAD, os.getpid()])
    assert [snapshot.pid for snapshot in answers.snapshots] == [os.getpid()]
    assert sorted(troubles(answers)) == sorted([(os.getppid(), "unguarded"), (DEAD, "gone")])
    words = {one.pid: one.words for one in answers.unanswered}
    assert words[DEAD] == f"pid {DEAD} does not exist"
    assert "leakguard run -- COMMAND" in words[os.getppid()]


@pytest.mark.skipif(os.geteuid() != 0, reason="root can stand for somebody else")
def test_another_users_process_is_told_as_such(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the user to ask as."""
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    (one,) = snapshots(pids=[1]).unanswered
    assert (one.trouble, one.words) == ("foreign", "pid 1 belongs to user 0: ask as that user, or as root")


def test_what_a_killed_process_left_behind_is_removed(directory: Path) -> None:
    """And it is in no answer."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(directory / f"{DEAD}.sock"))
    dead.close()
    assert snapshots() == Answers(snapshots=(), unanswered=())
    assert list(directory.iterdir()) == []


@pytest.mark.slow
def test_who_was_killed_is_gone(runtime_dir: Path) -> None:
    """By SIGKILL, with its socket still there."""
    with program(GUEST) as process:
        assert [snapshot.pid for snapshot in snapshots().snapshots] == [process.pid]
        process.kill()
        process.wait()
        assert troubles(snapshots(pids=[process.pid])) == [(process.pid, "gone")]


@pytest.mark.slow
def test_who_is_stopped_holds_up_nobody(guest: Guest) -> None:
    """Two seconds for all that hang; the others have answered meanwhile."""
    guest.wait()
    with program(GUEST) as first, program(GUEST) as second:
        for process in (first, second):
            stop(process.pid)
        begun = time.monotonic()
        answers = snapshots()
        assert client.TIMEOUT <= time.monotonic() - begun < client.TIMEOUT + 1.5
        assert [snapshot.pid for snapshot in answers.snapshots] == [os.getpid()]
        assert troubles(answers) == [(pid, "silent") for pid in sorted([first.pid, second.pid])]
        assert "did not answer in time" in answers.unanswered[0].words


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "ended before it had answered"),
        (b"{", "damaged"),
        (b"[]\n", "damaged"),
        (b'{"protocol": 1}\n', "damaged"),
        (b'{"protocol": 1, "snapshot": {}}\n', "damaged"),
        (b'{"protocol": 1, "snapshot": []}\n', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"protocol": 2, "version": "9.0\\u001b[2J"}\n', "runs leakguard 9.0\\x1b[2J, which answers in another form"),
        (b'{"protocol": 1, "error": "no\\nsense"}\n', "could not answer: no\\nsense"),
    ],
)
def test_other_answers_are_refused_in_words(directory: Path, answer: bytes, words: str) -> None:
    """Another version's above all; nothing in them moves the cursor."""
    with impostor(directory / f"{DEAD}.sock", answer):
        (one,) = snapshots(pids=[DEAD]).unanswered
    assert one.trouble == "refused"
    assert words in one.words
    assert one.words.startswith(f"pid {DEAD} ")


def test_an_answer_without_end_is_cut(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size that no process needs."""
    monkeypatch.setattr(client, "ANSWER_LIMIT", 1_000_000)
    with impostor(directory / f"{DEAD}.sock", b"x" * 100_000, endless=True):
        (one,) = snapshots().unanswered
    assert one.trouble == "refused"


def test_a_link_to_another_service_is_sent_nothing(
    directory: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose socket it is counts, not where it is: root must not be led to ask the services of others."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime_dir / "service"))
        listener.listen(5)
        (directory / f"{DEAD}.sock").symlink_to(runtime_dir / "service")
        monkeypatch.setattr(client, "_peer_of", lambda _link: 4711)
        assert snapshots() == Answers(snapshots=(), unanswered=())
        link, _ = listener.accept()
        heard.append(link.recv(100))
        link.close()
    assert heard == [b""]


def test_a_directory_that_is_not_trusted_is_passed_by(directory: Path) -> None:
    """Whoever can plant a socket there could tell anything."""
    with impostor(directory / f"{DEAD}.sock", b"?\n"):
        directory.chmod(0o777)
        assert snapshots() == Answers(snapshots=(), unanswered=())
        directory.chmod(0o700)


def damaged(change: Callable[[dict[str, object]], None], line: bytes) -> bytes:
    answer = json.loads(line)
    change(answer["snapshot"])
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda snapshot: snapshot["columns"].update(acquired=""),
        lambda snapshot: snapshot["columns"].update(acquired="AAAA"),
        lambda snapshot: snapshot["columns"].update(acquired="?"),
        lambda snapshot: snapshot["columns"].update(shape=snapshot["columns"]["id"]),
        lambda snapshot: snapshot["columns"].update(acquired="////////////////////"),
        lambda snapshot: snapshot.update(shapes=[]),
        lambda snapshot: snapshot.update(people="x"),
        lambda snapshot: snapshot["shapes"][0].update(stack=99),
        lambda snapshot: snapshot["shapes"][0].update(state="asleep"),
        lambda snapshot: snapshot.update(stacks=[[99]]),
        lambda snapshot: snapshot.update(pid="1"),
        lambda snapshot: snapshot.pop("columns"),
    ],
)
def test_a_damaged_snapshot_is_refused(guest: Guest, change: Callable[[dict[str, object]], None]) -> None:
    """Never an exception of another kind, whatever the bytes are."""
    guest.acquire(2)
    line = guest.runtime._desk.answer(b'{"ask": "snapshot"}')
    assert read(line).held == 2
    with pytest.raises(AnswerError, match="damaged"):
        read(damaged(change, line))


def test_the_protocol_is_told(guest: Guest) -> None:
    """So that a later version can say what it met."""
    answer = json.loads(guest.runtime._desk.answer(b"?"))
    assert (answer["protocol"], answer["version"]) == (PROTOCOL, __version__)
