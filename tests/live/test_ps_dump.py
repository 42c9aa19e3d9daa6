"""``leakguard ps`` and ``leakguard dump``: what they print, and their exit status."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from leakguard.cli import main
from leakguard.cli.asking import NOBODY
from leakguard.live import client
from leakguard.live.client import Answers, Unanswered
from leakguard.model import Snapshot
from leakguard.reporters.jsonl import decode
from tests.core.support import in_thread, wait_until
from tests.live.support import Guest

SILENT = Unanswered(pid=7, trouble="silent", words="pid 7 did not answer in time: it hangs, or is stopped\x1b[2J")


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers."""
    for module in ("ps", "dump", "top"):
        monkeypatch.setattr(
            f"leakguard.cli.{module}.snapshots", lambda **_: Answers(snapshots=(), unanswered=(SILENT,))
        )


@pytest.mark.parametrize("command", ["ps", "dump", "top"])
def test_without_a_guarded_process_it_says_how_to_start_one(
    runtime_dir: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """One line on standard error, and status 1."""
    assert main([command]) == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"leakguard {command}: {NOBODY}\n")


@pytest.mark.parametrize("command", ["ps", "dump", "top"])
def test_where_nobody_answers_it_could_not_attach(
    silent: None, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Status 4, and who it was; nothing of it moves the cursor."""
    assert main([command]) == 4
    out, err = capsys.readouterr()
    assert "pid 7 did not answer in time: it hangs, or is stopped\\x1b[2J" in out + err


@pytest.mark.parametrize("command", ["dump", "top"])
def test_who_is_named_and_does_not_answer_is_told(
    guest: Guest, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Status 4, also where others do."""
    guest.wait()
    assert main([command, "2147483600", str(os.getpid())]) == 4
    assert capsys.readouterr().err == f"leakguard {command}: pid 2147483600 does not exist\n"


@pytest.mark.parametrize("argument", ["x", "-1", "0", "4294967296", "1.5"])
def test_what_is_no_pid_is_a_usage_error(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names it."""
    with pytest.raises(SystemExit) as raised:
        main(["dump", "--", argument])
    assert raised.value.code == 2
    assert f"argument PID: {argument!r}: a process id is wanted" in capsys.readouterr().err


def test_ps_is_a_table(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """pid, held, oldest, leaks and command, at most 80 columns."""
    guest.acquire(3)
    guest.wait()
    assert main(["ps"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head == "     pid   held   oldest  leaks  command"
    assert row.split()[0:2] == [str(os.getpid()), "3"]
    assert row.split()[4] == "0"


def test_ps_tells_of_full_pools_and_of_who_is_silent(
    guest: Guest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reasons to look further."""
    guest.acquire(8)
    guest.wait()
    answers = client.snapshots()
    monkeypatch.setattr(
        "leakguard.cli.ps.snapshots", lambda **_: Answers(snapshots=answers.snapshots, unanswered=(SILENT,))
    )
    main(["ps"])
    _, row, silent = capsys.readouterr().out.splitlines()
    assert row.endswith('(pool "main" full)')
    assert silent.startswith("       7      ?        ?      ?  (no answer: pid 7 did not answer in time")


def test_dump_tells_everything(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """Holders with stacks, where their owners are now, state, last use; clean is status 0."""
    guest.acquire(2)
    guest.wait()
    assert main(["dump", str(os.getpid())]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("2 connections held at 1 place\n")
    assert "HELD x2" in out
    assert "tests/live/support.py" in out
    assert "kept by" not in out
    for _ in range(5):  # on a busy machine the search may run out of its half second, and says so
        assert main(["dump", "--why", "--all"]) == 0
        out = capsys.readouterr().out
        assert "kept by:" in out
        if "the search was cut" not in out:
            break
    assert "attribute `conns` of a Guest" in out


def test_a_leak_is_status_1(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """Of dump and ps alike."""
    guest.guard.configure(owner_grace=0.0)
    in_thread(guest.acquire)
    guest.wait()
    wait_until(lambda: guest.guard.counts.get("orphaned") == 1)
    assert main(["dump"]) == 1
    assert "LEAK x1" in capsys.readouterr().out
    assert main(["ps"]) == 1
    assert capsys.readouterr().out.splitlines()[1].split()[4] == "1"


def test_dump_as_json_is_one_snapshot_a_line(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """Which `leakguard report` reads."""
    guest.acquire(2)
    guest.wait()
    assert main(["dump", "--format", "json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["event"] == "snapshot"
    snapshot, _ = decode(line.encode())
    assert isinstance(snapshot, Snapshot)
    assert [one.hold.pool for one in snapshot.holds] == ["main", "main"]


def test_dump_into_a_file(guest: Guest, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Which only its owner may read; and a file that cannot be written is a usage error."""
    guest.acquire()
    guest.wait()
    assert main(["dump", "--format", "json", "--output", str(tmp_path / "dump.jsonl")]) == 0
    assert main(["report", str(tmp_path / "dump.jsonl")]) == 0
    assert "HELD x1" in capsys.readouterr().out
    assert main(["dump", "--output", str(tmp_path / "no" / "dump")]) == 2
    assert capsys.readouterr().err.startswith("leakguard dump: cannot write")


def test_dump_as_a_page(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    """One file, with the line in it."""
    pytest.importorskip("jinja2")
    guest.acquire()
    guest.wait()
    assert main(["dump", "--format", "html"]) == 0
    assert "<html" in capsys.readouterr().out
