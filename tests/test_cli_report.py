"""``leakguard report``: what several files add up to."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from leakguard.cli import report
from leakguard.model import Event
from leakguard.reporters.jsonl import encode
from tests.factories import (
    NOON,
    later,
    make_exhausted,
    make_hold,
    make_leak,
    make_owner,
    make_pool,
    make_recovered,
    make_site,
    make_summary,
)

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write events, and lines as they are, to a file."""

    def write(*lines: Event | bytes, name: str = "leaks.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(line if isinstance(line, bytes) else encode(line) for line in lines))
        return path

    return write


def run(*arguments: str | Path) -> int:
    """The command, as the command line calls it."""
    parser = argparse.ArgumentParser(prog="leakguard report")
    report.configure(parser)
    return report.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture
def report_of(write: Write, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """The JSON report of these lines in one file."""

    def report_of(*lines: Event | bytes) -> Any:
        run(write(*lines), "--format", "json")
        return json.loads(capsys.readouterr().out)

    return report_of


def by(pid: int, host: str = "web1", **changes: Any) -> dict[str, Any]:
    """The hold of a leak that another process has found."""
    return {"hold": make_hold(owner=make_owner(pid=pid, host=host), **changes)}


REPORT = """\
6 leaks, 2 suspicions, 2 places; no connection left 1 time; 3 processes

LEAK dropped x6, overdue x1  8f21c0a4d9e1  shop/orders.py:88
  in export_orders, by psycopg_pool getconn:
      conn = pool.getconn()
             ~~~~~~~~~~~~~~
  called from: shop/web.py:31 in handler
               shop/main.py:12 in main
               (2 library frames hidden)
  owners:      thread "worker-3", thread "worker-4"
  pools:       "main" (psycopg_pool)
  seen:        2026-01-31 12:00:00 to 2026-01-31 12:00:09 UTC, in 2 processes
  held for:    12m04s at most
  recovered:   1 time, after 1m11s at most
  healed:      no
  why:         The checkout was garbage-collected without being returned to pool
               "main": the pool has lost this slot for good.
  fix:         Acquire it as `with pool.connection() as conn:`, so that every
               way out gives it back.

SUSPECT idle_in_transaction x1  a03b77c15e20  shop/report.py:17
  in daily, by sqlalchemy connect:
      with engine.connect() as conn:
           ~~~~~~~~~~~~~~~~
  owners:      task "Task-1" thread "MainThread" request=r-17
  seen:        2026-01-31 12:00:00 UTC, in 1 process
  held for:    12m04s at most
  why:         It waits.
  fix:         Commit.

EXHAUSTED pool "main": 15 of 16 held by this process, 1 slot lost
  error:       couldn't get a connection after 1.00 sec
  held at:     x12 shop/orders.py:88 in export_orders, oldest 12m04s  8f21c0a4d9e1
               x3  shop/report.py:17 in daily, oldest 4.2 s  a03b77c15e20
  seen:        2026-01-31 12:00:00 UTC, pid 4242

processes:
  pid 4242 (python app.py) on web1: 100 acquired, 96 released, 1 still held, 3 garbage-collected; found: 3 dropped
  pid 4243 (python app.py) on web1: ended without a summary: killed, or still running
  1 process without a leak
"""


def test_a_report_reads_like_this(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The golden text: how much at first, the worst place next, then what had none left, then the processes."""
    monkeypatch.setattr(os, "getcwd", lambda: "/srv")
    waiting = make_hold(
        library="sqlalchemy",
        operation="connect",
        site=make_site(file="/srv/shop/report.py", line=17, function="daily", code="with engine.connect() as conn:"),
        stack=(),
        owner=make_owner(thread="MainThread", task="Task-1", labels={"request": "r-17"}),
    )
    path = write(
        make_leak(kind="overdue", certain=False, count=1),
        make_recovered(),
        make_leak(count=1),
        make_leak(count=5, time=later(9), hold=make_hold(owner=make_owner(thread="worker-4"))),
        make_leak(count=1, **by(4243)),
        make_leak(
            kind="idle_in_transaction",
            certain=False,
            count=1,
            fingerprint="a03b77c15e20",
            hold=waiting,
            pool=None,
            reason="It waits.",
            advice="Commit.",
        ),
        make_exhausted(),
        make_summary(),
        make_summary(pid=4244, leaks={}, leaked=0, released=99),
    )
    assert run(path) == 1
    assert capsys.readouterr().out == REPORT


# ------------------------------------------------------------------------------------------------------ adding it up


def counts(found: Any) -> list[dict[str, int]]:
    """The counts of each group by kind."""
    return [group["kinds"] for group in found["groups"]]


def test_the_highest_count_of_a_process_is_exact(report_of: Callable[..., Any]) -> None:
    """Events are folded; their `count` says how many they stand for."""
    found = report_of(make_leak(count=1), make_leak(count=2, time=later(1)), make_leak(count=5000, time=later(11)))
    assert counts(found) == [{"dropped": 5000}]


def test_processes_are_added_up(report_of: Callable[..., Any]) -> None:
    """Each counts for itself, also where two hosts use one process id."""
    found = report_of(
        make_leak(count=1, **by(1)),
        make_leak(count=1, **by(2)),
        make_leak(count=7, time=later(1), **by(1)),
        make_leak(count=3, time=later(2), **by(1, "web2")),
    )
    assert counts(found) == [{"dropped": 11}]
    assert found["groups"][0]["processes"] == 3


def test_kinds_are_counted_apart(report_of: Callable[..., Any]) -> None:
    """Suspicion and proof of one bug are one group, the proof first."""
    found = report_of(
        make_leak(kind="overdue", certain=False, count=4, reason="Slow.", time=later(5)),
        make_leak(kind="orphaned", count=1, reason="Gone."),
    )
    assert counts(found) == [{"orphaned": 1, "overdue": 4}]
    assert list(found["groups"][0]["kinds"]) == ["orphaned", "overdue"]
    assert (found["groups"][0]["verdict"], found["groups"][0]["reason"]) == ("leak", "Gone.")


def test_a_process_id_that_is_used_again_is_another_process(report_of: Callable[..., Any]) -> None:
    """In a container every run is process 1; its counts begin at 1 again."""
    found = report_of(
        make_leak(count=1),
        make_leak(count=5, time=later(1)),
        make_leak(count=1, time=later(100)),
        make_leak(count=3, time=later(101)),
    )
    assert counts(found) == [{"dropped": 8}]


def test_a_leak_of_a_pool_has_no_owner_to_tell_processes_apart(report_of: Callable[..., Any]) -> None:
    """Two processes that write to one file by turns are still both counted."""
    leaks = [
        make_leak(kind="unclosed_pool", hold=None, count=count, time=later(second))
        for second, count in enumerate([1, 1, 50, 40, 60])
    ]
    assert counts(report_of(*leaks)) == [{"unclosed_pool": 100}]


def test_the_order_of_lines_does_not_matter_much(report_of: Callable[..., Any]) -> None:
    """Two threads may write their events the wrong way round, and a line may be there twice."""
    found = report_of(
        make_leak(count=2, time=later(1)), make_leak(count=1), make_leak(count=1), make_leak(count=2, time=later(1))
    )
    assert counts(found) == [{"dropped": 2}]


def test_the_same_file_twice_counts_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """``report *.jsonl leaks.jsonl``."""
    path = write(make_exhausted(count=0))
    link = path.with_name("link")
    link.symlink_to(path)
    run(path, path, link, "--format", "json")
    assert json.loads(capsys.readouterr().out)["exhausted"][0]["count"] == 1


def test_files_are_added_up(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """One file a process is what ``%p`` in the setting gives."""
    paths = [write(make_leak(count=pid, **by(pid)), name=f"{pid}.jsonl") for pid in (1, 2, 3)]
    assert run(*paths) == 1
    assert capsys.readouterr().out.startswith("6 leaks, 1 place; 3 processes\n")


def test_the_worst_comes_first(report_of: Callable[..., Any]) -> None:
    """Proven before suspected before advice, then by number."""
    found = report_of(
        make_leak(kind="nested_acquire", certain=False, fingerprint="advice", count=900),
        make_leak(kind="overdue", certain=False, fingerprint="few", count=2),
        make_leak(kind="overdue", certain=False, fingerprint="many", count=80),
        make_leak(kind="dropped", fingerprint="worst", count=9),
        make_leak(kind="lost_slot", fingerprint="bad", count=1),
    )
    assert [group["fingerprint"] for group in found["groups"]] == ["worst", "bad", "many", "few", "advice"]
    assert [group["verdict"] for group in found["groups"]] == ["leak", "leak", "suspect", "suspect", "advice"]


def test_a_group_shows_its_newest_event_and_all_that_was_seen(report_of: Callable[..., Any]) -> None:
    """The line may have moved meanwhile; owners and pools are collected."""
    pool = make_pool(name="replica", library="sqlalchemy")
    found = report_of(
        make_leak(count=2, time=later(60), site=make_site(line=91), healed=True, advice="Newer."),
        make_leak(count=1, pool=pool, **by(4242, library="sqlalchemy", held_for=9000.0)),
        make_recovered(held_for=5.0),
        make_recovered(held_for=80.0),
    )
    (group,) = found["groups"]
    assert group["site"] == {"file": "/srv/shop/orders.py", "line": 91, "function": "export_orders"} | {
        "code": "conn = pool.getconn()"
    }
    assert [frame["line"] for frame in group["stack"] if frame["app"]] == [88, 31, 12]
    assert group["advice"] == "Newer."
    assert group["libraries"] == ["psycopg_pool", "sqlalchemy"]
    assert [pool["name"] for pool in group["pools"]] == ["main", "replica"]
    assert group["owners"] == [{"test": None, "task": None, "thread": "worker-3", "labels": {}}]
    assert (group["first_seen"], group["last_seen"]) == (NOON.isoformat(), later(60).isoformat())
    assert group["longest_held"] == 9000.0
    assert group["healed"] == {"yes": 1, "no": 1}
    assert group["recovered"] == {"count": 2, "longest_held": 80.0}


def test_owners_without_end_are_cut(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A task a request: the first are shown, the others are not kept for ever."""
    leaks = [
        make_leak(count=n, time=later(n), hold=make_hold(owner=make_owner(task=f"Task-{n}"))) for n in range(1, 151)
    ]
    run(write(*leaks))
    text = capsys.readouterr().out
    assert text.count('task "Task-') == 5
    assert "and 95 or more others" in text


def test_shortages_are_folded(report_of: Callable[..., Any]) -> None:
    """A flood of timeouts of one pool is one entry."""
    found = report_of(
        make_exhausted(count=1),
        make_exhausted(count=900, time=later(9), held=16),
        make_exhausted(count=1, cause="server", pool=None),
    )
    assert [(entry["cause"], entry["count"]) for entry in found["exhausted"]] == [("pool", 900), ("server", 1)]
    assert found["exhausted"][0]["newest"]["held"] == 16


# --------------------------------------------------------------------------------------------------------- processes


def test_accounts_that_do_not_add_up_are_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """``acquired == released + held + leaked``, or leakguard has lost count."""
    run(write(make_summary(acquired=101, leaks={})))
    assert (
        "pid 4242 (python app.py) on web1: does not add up: 101 acquired, 100 accounted for" in capsys.readouterr().out
    )


def test_accounts_without_the_number_of_leaks_are_not_judged(report_of: Callable[..., Any]) -> None:
    """Section 5 of the contract does not promise that key."""
    line = make_summary().to_dict()
    del line["leaked"], line["host"], line["process"]
    found = report_of(make_leak(), json.dumps(line).encode())
    assert [process["adds_up"] for process in found["processes"]] == [None, None]
    assert all(process["ended"] for process in found["processes"])


def test_a_process_that_was_killed_is_told_from_one_that_ended(report_of: Callable[..., Any]) -> None:
    """No summary after its last leak."""
    found = report_of(
        make_leak(**by(1)),
        make_summary(pid=1),
        make_leak(**by(2)),
        make_summary(pid=3),
        make_leak(**by(3), time=later(100)),
    )
    assert {process["pid"]: process["ended"] for process in found["processes"]} == {1: True, 2: False, 3: False}


def test_many_processes_are_cut(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A week of workers does not bury the leaks."""
    run(write(*(make_summary(pid=pid) for pid in range(100, 150))))
    text = capsys.readouterr().out
    assert text.count("found: 3 dropped") == 20
    assert "(30 processes more)" in text


# ------------------------------------------------------------------------------------------------------- exit status


@pytest.mark.parametrize(
    ("events", "status"),
    [
        pytest.param([], 0, id="empty file"),
        pytest.param([make_summary(leaks={})], 0, id="clean"),
        pytest.param([make_leak(kind="nested_acquire", certain=False)], 0, id="advice"),
        pytest.param([make_summary(leaks={"nested_acquire": 2})], 0, id="advice counted"),
        pytest.param([make_leak()], 1, id="leak"),
        pytest.param([make_leak(healed=True)], 1, id="healed"),
        pytest.param([make_leak(kind="overdue", certain=False), make_recovered()], 1, id="suspicion"),
        pytest.param([make_exhausted()], 1, id="exhausted"),
        pytest.param([make_summary()], 1, id="leak counted"),
        pytest.param([b"garbage\n"], 0, id="damage alone"),
    ],
)
def test_the_exit_status_says_whether_to_look(write: Write, events: Sequence[Event | bytes], status: int) -> None:
    """1 for anything that somebody has to look at; advice is nothing of that kind."""
    assert run(write(*events)) == status


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_empty_file_is_fine(write: Write, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Nothing has happened yet."""
    assert run(write(b""), "--format", form) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    if form == "json":
        assert json.loads(captured.out)["groups"] == []
    else:
        assert captured.out == "0 leaks; 0 processes\n"


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("name", "reason"), [("missing", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_ends_it(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    """One line that names the file and the reason, status 2, and no half report."""
    assert run(write(make_leak()), tmp_path / name) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"leakguard report: cannot read {tmp_path / name}: {reason}\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_ends_it(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The same for a file of somebody else's."""
    path = write(make_leak())
    path.chmod(0)
    assert run(path) == 2
    assert capsys.readouterr().err == f"leakguard report: cannot read {path}: Permission denied\n"


def test_damaged_lines_are_skipped_counted_and_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """The rest of the file counts; the first bad line is named."""
    good = encode(make_leak())
    path = write(good, b"\n", b"garbage\n", good[:50] + b"\n", os.urandom(2000).replace(b"\n", b"") + b"\n", good[:-1])
    assert run(path, "--format", "json") == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert counts(found) == [{"dropped": 3}]
    assert found["skipped"]["damaged"] == [{"file": str(path), "lines": 3, "first_line": 3, "reason": "not JSON"}]
    assert captured.err == (
        f"leakguard report: {path}: skipped 3 lines that no leakguard wrote, the first is line 3: not JSON\n"
    )


def test_an_unknown_schema_is_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Which, and how many events."""
    line = b'{"schema": 2, "event": "leak"}\n'
    assert run(write(line, line, make_leak()), "--format", "json") == 1
    captured = capsys.readouterr()
    assert captured.err == "leakguard report: skipped 2 events of schema 2; this version knows schema 1\n"
    assert json.loads(captured.out)["skipped"] == {"damaged": [], "schemas": {"2": 2}, "events": {}}


def test_an_unknown_event_is_said(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A later version's event does not disturb."""
    assert run(write(b'{"schema": 1, "event": "metric"}')) == 0
    assert capsys.readouterr().err == (
        'leakguard report: skipped 1 event named "metric", which this version does not know\n'
    )


def test_foreign_names_without_end_are_folded(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Some other program's log has an event name a line."""
    lines = [json.dumps({"schema": 1, "event": f"e{n}"}).encode() + b"\n" for n in range(100)]
    run(write(*lines))
    assert len(capsys.readouterr().err.splitlines()) == 21


@pytest.mark.slow
def test_an_endless_line_is_skipped(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Without keeping it in memory, and the lines keep their numbers."""
    path = write(b"x" * 10_000_000 + b"\n", make_leak(), b"?\n")
    assert run(path, "--format", "json") == 1
    assert json.loads(capsys.readouterr().out)["skipped"]["damaged"] == [
        {"file": str(path), "lines": 2, "first_line": 1, "reason": "longer than any event"}
    ]


@pytest.mark.parametrize("form", ["text", "json"])
def test_hostile_strings_are_inert(write: Write, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """Escape sequences in a file do not reach the terminal, on either stream."""
    evil = "\x1b[2J\x9b\u202e\x7f\x07"
    owner = make_owner(thread=evil, process=evil, host=evil, labels={evil: evil})
    site = make_site(file=evil, function=evil, code=evil)
    pool = make_pool(name=evil, library=evil)
    hold = make_hold(owner=owner, library=evil, operation=evil)
    path = write(
        make_leak(fingerprint=evil, hold=hold, site=site, pool=pool, reason=evil, advice=evil),
        make_exhausted(pool=evil, error=evil),
        make_summary(process=evil, host=evil, leaks={evil: 1}),
        json.dumps({"schema": evil, "event": evil}).encode() + b"\n",
        json.dumps({"schema": 1, "event": evil}).encode() + b"\n",
        json.dumps({"schema": 1, "event": "leak", "kind": evil, "fingerprint": "f"}).encode() + b"\n",
        name=f"x{evil}",
    )
    assert run(path, "--format", form) == 1
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).split("\n"):
        assert line.isprintable()


# ------------------------------------------------------------------------------------------------------------ output


def test_the_report_can_go_to_a_file(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Private, without colour, over an older one; the exit status is the same."""
    path, output = write(make_leak()), tmp_path / "report.txt"
    assert run(path, "--output", output) == 1
    assert capsys.readouterr().out == ""
    assert output.read_text(encoding="utf-8").startswith("3 leaks, 1 place; 1 process\n")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert run(write(make_summary(leaks={})), "--output", output) == 0
    assert output.read_text(encoding="utf-8").startswith("0 leaks; 1 process\n")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".", "Is a directory"),
        ("missing/report.txt", "No such file or directory"),
        ("leaks.jsonl", "it is one of the files to read"),
    ],
)
def test_an_output_that_cannot_be_written_ends_it(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    """The evidence is never overwritten."""
    path = write(make_leak())
    assert run(path, "--output", tmp_path / name) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"leakguard report: cannot write {tmp_path / name}: {reason}\n"
    assert path.read_bytes() == encode(make_leak())


@pytest.mark.parametrize("arguments", [[], ["leaks.jsonl", "--format", "xml"]])
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """argparse says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: leakguard report" in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """``leakguard report leaks.jsonl | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(write(*(make_leak(fingerprint=f"f{n}") for n in range(50)))) == 1
        monkeypatch.undo()
