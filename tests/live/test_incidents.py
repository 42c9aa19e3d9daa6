"""Incident files: everything there was to see when no connection was left, in files that outlive the process."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import ConnectionPool, PoolTimeout

import leakguard
from leakguard.cli import main
from leakguard.incident import writing
from leakguard.model import Exhausted, Snapshot
from leakguard.process import daemon
from leakguard.reporters.jsonl import decode
from leakguard.testing import FakeTime, fake_time
from tests.core.support import Pool, in_thread, wire_of
from tests.live.support import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the files are to be; it does not exist yet."""
    return tmp_path / "var" / "incidents"


@pytest.fixture
def shop(directory: Path) -> Iterator[FakeTime]:
    """leakguard on a fake clock, with incident files, written at once."""
    with fake_time() as time:
        leakguard.install(on_leak=lambda _event: None, incident_dir=directory)
        yield time


def exhaust(time: FakeTime, pool: Pool, **changes: Any) -> str:
    """Have an acquire fail; the note on its exception."""
    error = TimeoutError("no connection after 1.00 sec")
    watch = pool.record.watch
    assert watch is not None
    given = {"watch": watch, "pool": pool.record, "cause": "pool", "holds": pool.record.holds()} | changes
    time.runtime.exhausted(error, **given)
    return "\n".join(error.__notes__)


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_the_exception_names_a_file_with_everything_in_it(shop: FakeTime, directory: Path, dsn: str) -> None:
    """Who was refused and where, the note, all holders with their stacks, what keeps them alive, pools, settings."""
    with ConnectionPool(dsn, min_size=1, max_size=2, open=True, name="orders") as pool:

        def export_orders() -> None:
            kept.append(pool.getconn())
            kept[-1].execute("SELECT 'secret'")

        kept: list[Any] = []
        for _ in range(2):
            in_thread(export_orders)
        shop.clock.advance(42.0)
        with pytest.raises(PoolTimeout) as raised:
            pool.getconn(timeout=0.05)
        (note,) = raised.value.__notes__
        *_, last = note.splitlines()
        text, lines = (directory / name for name in files(directory)[::-1])
        assert last == f"  incident file: {text}"
        told = text.read_text()
        assert "couldn't get a connection after 0.05 sec" in told
        assert f"refused at:  {os.path.relpath(__file__)}" in told
        assert note.removesuffix(last).strip() in told
        assert "x2  oldest 42.0 s" in told
        assert "in export_orders, by psycopg_pool getconn:" in told
        assert 'thread "worker", ended' in told
        assert "local `kept` of the running frame" in told
        assert 'pool:        "orders" (psycopg_pool), 2 of 2 held, 2 open, 1 timed out' in told
        assert f"incident_dir          {directory}" in told
        assert "secret" not in told + lines.read_text()
        events = [decode(line)[0] for line in lines.read_bytes().splitlines()]
        assert [type(event) for event in events] == [Exhausted, Snapshot]
        assert isinstance(events[1], Snapshot)
        assert [one.hold.pool for one in events[1].holds] == ["orders"] * 2
        for connection in kept:
            pool.putconn(connection)


def test_the_report_reads_it(shop: FakeTime, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exhaustion, and who held what; and so does its JSON form."""
    pool = Pool(shop.runtime.tracker)
    kept = pool.getconn()
    exhaust(shop, pool)
    path = next(directory.glob("*.jsonl"))
    assert main(["report", str(path)]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert 'EXHAUSTED pool "main": 1 of 4 held by this process' in out
    assert "HELD x1" in out
    assert main(["report", "--format", "json", str(path)]) == 1
    (snapshot,) = json.loads(capsys.readouterr().out)["snapshots"]
    assert snapshot["held"] == 1
    pool.putconn(kept)


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    """The clean twin."""
    with fake_time() as time:
        leakguard.install(on_leak=lambda _event: None)
        assert "incident" not in exhaust(time, Pool(time.runtime.tracker))
    assert files(tmp_path) == []


def test_only_their_owner_reads_them(shop: FakeTime, directory: Path) -> None:
    """Directory, files, and nothing half done is left."""
    exhaust(shop, Pool(shop.runtime.tracker))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()] == [0o600, 0o600]
    assert [name.rpartition(".")[2] for name in files(directory)] == ["jsonl", "txt"]


def test_one_a_minute(shop: FakeTime, directory: Path) -> None:
    """Meanwhile the exceptions name the one there is, and how old it is."""
    pool, other = Pool(shop.runtime.tracker, "main"), Pool(shop.runtime.tracker, "other")
    first = exhaust(shop, pool).splitlines()[-1]
    shop.clock.advance(59.0)
    assert exhaust(shop, other).splitlines()[-1] == first.replace("file:", "file of 59.0 s ago:")
    assert len(files(directory)) == 2
    shop.clock.advance(1.0)
    assert exhaust(shop, pool).splitlines()[-1] != first
    assert len(files(directory)) == 4


def test_the_newest_twenty_are_kept(shop: FakeTime, directory: Path) -> None:
    """Of all processes together; what else is in the directory is not ours."""
    directory.mkdir(parents=True)
    (directory / "notes.txt").write_text("mine")
    (directory / "incident-report.txt").write_text("mine")
    pool = Pool(shop.runtime.tracker)
    for _ in range(23):
        exhaust(shop, pool)
        shop.clock.advance(60.0)
    names = files(directory)
    assert names[-1] == "notes.txt"
    assert len([name for name in names if name.endswith(".jsonl")]) == 20
    assert len(names) == 42
    assert "The newest 20 incidents are kept here." in (directory / names[-3]).read_text()


def test_a_pool_that_could_not_connect_is_no_incident(shop: FakeTime, directory: Path) -> None:
    """Nothing of ours is used up."""
    exhaust(shop, Pool(shop.runtime.tracker), server_words="connection refused")
    assert files(directory) == []


def test_a_directory_that_cannot_be_written_is_said_once(
    directory: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Counted each time, never fatal; and no exception names a file that is not there, after the first."""
    (tmp_path / "file").touch()
    with fake_time() as time:
        guard = leakguard.install(on_leak=lambda _event: None, incident_dir=tmp_path / "file")
        pool = Pool(time.runtime.tracker)
        with caplog.at_level(logging.WARNING):
            for count in (1, 2):
                assert "incident" not in exhaust(time, pool)
                assert guard.summary().internal_errors == count
                time.clock.advance(60.0)
        assert len(caplog.records) == 1
        assert "internal error in incident file" in caplog.text
        assert "Traceback" not in caplog.text
        guard.configure(incident_dir=directory)
        assert "incident file: " in exhaust(time, pool)


def test_a_full_disk_leaves_nothing_behind(
    shop: FakeTime, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a half file nor an exception."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    exhaust(shop, Pool(shop.runtime.tracker))
    assert files(directory) == []
    assert "No space left on device" in caplog.text


def test_a_link_that_somebody_planted_is_not_followed(shop: FakeTime, directory: Path, tmp_path: Path) -> None:
    """A name can be foreseen: pid and time."""
    directory.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = f"incident-20260131T120000Z-{os.getpid()}"
    (directory / f".{name}.jsonl.part").symlink_to(victim)
    exhaust(shop, Pool(shop.runtime.tracker))
    assert victim.read_text() == "precious"
    (directory / f".{name}.jsonl.part").unlink()
    (directory / f"{name}.txt").symlink_to(victim)
    shop.clock._hands[0] += 60.0  # a minute later, by the same wall clock
    exhaust(shop, Pool(shop.runtime.tracker))
    assert victim.read_text() == "precious"
    assert not (directory / f"{name}.txt").is_symlink()


def test_hostile_words_are_inert(shop: FakeTime, directory: Path) -> None:
    """What a terminal would obey, in names, labels and statements."""
    evil = "\x1b[2J\x9b\u202e\x07"
    tracker = shop.runtime.tracker
    pool = Pool(tracker, evil)

    def acquire() -> Any:
        with leakguard.label(evil=evil):
            return pool.getconn()

    kept = in_thread(acquire, name=evil)
    tracker.statement(wire_of(tracker, kept), f"SELECT {evil}")
    exhaust(shop, pool)
    for name in files(directory):
        content = (directory / name).read_text()
        obeyed = [char for char in content if not char.isprintable() and char != "\n"]
        assert obeyed == [] if name.endswith(".txt") else "\x1b" not in obeyed


def test_many_holders_fit(shop: FakeTime, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest are told, and how many are not; the line is one that `leakguard report` reads."""
    monkeypatch.setattr(writing, "LINE_LIMIT", 20_000)
    pool = Pool(shop.runtime.tracker, size=None)
    kept = [pool.getconn() for _ in range(1_100)]
    exhaust(shop, pool)
    path = next(directory.glob("*.jsonl"))
    _, line = path.read_bytes().splitlines()
    snapshot, _ = decode(line)
    assert isinstance(snapshot, Snapshot)
    assert len(line) <= 20_000
    assert len(snapshot.holds) + snapshot.left_out == snapshot.held == 1_100
    assert snapshot.holds[0].hold.id == leakguard.holds()[0].id
    assert "x1000" in next(directory.glob("*.txt")).read_text()
    for connection in kept:
        pool.putconn(connection)


# ------------------------------------------------------------------------------------------------ with its own thread


@pytest.mark.slow
def test_the_acquire_does_not_wait_for_the_disk(tmp_path: Path, dsn: str) -> None:
    """The file is written aside; the process waits for it at its end, and it tells what was held at the failure, also
    what the failing thread gave back on its way out."""
    source = """
import os, sys, time
import leakguard
from leakguard.incident import writing
from psycopg_pool import ConnectionPool, PoolTimeout

save, fsync = writing.save, os.fsync
def slow(descriptor):
    time.sleep(0.5)
    fsync(descriptor)
writing.os.fsync = slow
leakguard.install(incident_dir=sys.argv[1], on_leak=lambda event: None)
pool = ConnectionPool(sys.argv[2], min_size=1, max_size=1, open=True, timeout=0.1)
try:
    with pool.connection() as held:
        begun = time.monotonic()
        try:
            pool.getconn()
        finally:
            print(time.monotonic() - begun)
except PoolTimeout as error:
    print(error.__notes__[0].splitlines()[-1])
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", source, str(tmp_path / "incidents"), dsn]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    took, line = done.stdout.splitlines()
    assert float(took) < 0.5
    path = Path(line.removeprefix("  incident file: "))
    assert "1 connection held at 1 place" in path.read_text()


def test_without_a_thread_it_is_written_at_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the machine's limit of threads, which may be the very reason."""
    from leakguard.clock import SYSTEM_CLOCK
    from leakguard.incident.files import Incidents
    from leakguard.settings import Settings
    from tests.factories import make_exhausted

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(daemon, "start", refused)
    with fake_time() as time:
        leakguard.install(on_leak=lambda _event: None)
        errors: list[object] = []
        incidents = Incidents(
            time.runtime._desk, SYSTEM_CLOCK.monotonic, lambda *error: errors.append(error), threaded=True
        )
        line = incidents.file_of(make_exhausted(), "leakguard: note", Settings(incident_dir=directory))
    assert line == f"incident file: {directory}/incident-20260131T120000Z-4242.txt"
    assert errors == []
    assert len(files(directory)) == 2


def test_it_takes_little_of_the_acquires_time(shop: FakeTime, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand holders are read in a few milliseconds; the rest is the thread's."""
    started: list[object] = []
    monkeypatch.setattr(daemon, "start", lambda run, _name: started.append(run))
    shop.runtime._incidents._threaded = True
    pool = Pool(shop.runtime.tracker, size=None)
    kept = [pool.getconn() for _ in range(1_000)]
    begun = time.perf_counter()
    shop.runtime._incidents.file_of(
        Exhausted(
            time=shop.clock.now(),
            pid=1,
            cause="pool",
            count=1,
            pool="main",
            error="",
            holders=(),
            held=0,
            capacity=1,
            lost=0,
        ),
        "leakguard: note",
        shop.runtime.guards[0].settings,
    )
    assert time.perf_counter() - begun < 0.25  # 4 ms on a machine that does nothing else
    assert len(started) == 1
    assert files(directory) == []
    for connection in kept:
        pool.putconn(connection)
