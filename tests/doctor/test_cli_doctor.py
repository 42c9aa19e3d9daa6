"""`leakguard doctor` from end to end: real processes, real servers that are full, and what is typed wrong."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from leakguard.cli import main
from leakguard.incident.doctor import render
from leakguard.reporters.jsonl import encode
from tests.doctor.support import (
    PASSWORD,
    PGBOUNCER,
    dsn_of,
    examined,
    filled,
    free_port,
    hold_of,
    listening,
    pgbouncer,
    snapshot_of,
)
from tests.factories import make_leak

SHOP = Path(__file__).with_name("programs") / "shop.py"
EVIL = 'x\x1b[2J\x1b]0;owned\x07\r\nLEAK forged.py:1 "\u202e'


def line_of(mark: str) -> int:
    return next(number for number, line in enumerate(SHOP.read_text().splitlines(), 1) if line.endswith(f"# {mark}"))


@contextmanager
def shop(dsn: str, what: str, count: int, *, guarded: bool = True, **environment: str):
    """A process of the shop; its process id."""
    run = ["-m", "leakguard", "run", "--quiet", "--owner-grace", "0", "--", sys.executable] if guarded else []
    with subprocess.Popen(
        [sys.executable, *run, str(SHOP), what, str(count)],
        env={**os.environ, "DATABASE_URL": dsn, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process.pid
        finally:
            process.kill()  # at its end, a pool that is not closed makes it wait for its threads


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type the command."""
    return subprocess.run(
        [sys.executable, "-m", "leakguard", "doctor", *arguments],
        env={**os.environ, "PGPASSFILE": "/no/such/file", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(*arguments: str):
    """The JSON form, once the leaks of the processes are proven."""
    deadline = time.monotonic() + 20
    while True:
        done = doctor(*arguments, "--format", "json")
        body = json.loads(done.stdout)
        if any(cause["certain"] and cause["kind"] == "leak" for cause in body["doctor"]["causes"]):
            return done.returncode, body["doctor"]
        assert time.monotonic() < deadline, done.stdout
        time.sleep(0.1)


def by_keeper(found) -> dict[tuple[str, int | None], int]:
    """How many slots each has, by kind and process."""
    counts: dict[tuple[str, int | None], int] = {}
    for slot in found["joined"]["slots"]:
        key = slot["keeper"], (slot["process"] or {}).get("pid")
        counts[key] = counts.get(key, 0) + 1
    return counts


@pytest.mark.slow
class TestFull:
    def test_directly(self, each_server):
        """Of a full server every slot is explained, and the line that leaks stands first."""
        dsn = dsn_of(each_server, "app")
        with ExitStack() as stack:
            leaky, other, warm = (
                stack.enter_context(shop(dsn, what, count)) for what, count in (("leak", 3), ("leak", 2), ("warm", 2))
            )
            unguarded = stack.enter_context(shop(dsn, "direct", 1, guarded=False))
            with filled(dsn) as own:
                assert len(own) == 1
                code, found = answer(dsn_of(each_server, "rescue"))
                assert code == 1
                assert [attempt["door"] for attempt in found["attempts"]] == ["ordinary", "replication"]
                assert by_keeper(found) == {
                    ("hold", leaky): 3,
                    ("hold", other): 2,
                    ("pool", warm): 2,
                    ("process", unguarded): 1,
                    ("process", os.getpid()): 1,
                }
                assert all(slot["sure"] for slot in found["joined"]["slots"])
                first = found["causes"][0]
                assert (first["kind"], first["slots"]) == ("leak", 5)
                assert (first["site"]["file"], first["site"]["line"]) == (str(SHOP), line_of("LEAK"))
                assert found["shortages"] == [
                    {
                        "kind": "server",
                        "what": "connection slots of the server",
                        "used": 9,
                        "limit": 9,
                        "full": True,
                        "role": None,
                        "database": None,
                    }
                ]

    def test_text(self, small):
        """The text has the line within its first lines, in 80 columns, and obeys no thread's name."""
        dsn = dsn_of(small, "app")
        with shop(dsn, "leak", 3), filled(dsn, application_name=EVIL):
            answer(small.dsn())
            done = doctor(small.dsn())
        lines = done.stdout.splitlines()
        assert done.returncode == 1
        assert any(f"shop.py:{line_of('LEAK')}" in line for line in lines[:5])
        assert "EXHAUSTED" in lines[1]
        assert [line for line in lines if len(line) > 80 and "programs/shop.py" not in line] == []
        assert not any(line.startswith(("LEAK", "forged")) for line in lines)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", done.stdout)
        assert "secret" not in done.stdout
        assert "4711" not in done.stdout

    @pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")
    @pytest.mark.parametrize("mode", ["transaction", "session"])
    def test_through_pgbouncer(self, each_server, mode):
        """Behind PgBouncer every slot has its process and line as well."""
        with pgbouncer(each_server, mode=mode) as pooler, ExitStack() as stack:
            leaky = stack.enter_context(shop(pooler.dsn("app"), "leak", 2))
            stack.enter_context(shop(pooler.dsn("app"), "direct", 1, guarded=False))
            code, found = answer(pooler.dsn("leakguard"))
        assert code == 1
        keepers = by_keeper(found)
        keepers.pop(("pooler", None), None)  # logged in by a client that has asked nothing yet
        assert keepers == {("hold", leaky): 2, ("doctor", None): 1}
        assert found["causes"][0]["site"]["line"] == line_of("LEAK")

    def test_terminate(self, small):
        """The leak's slots are freed and told with their line, and the others live on."""
        dsn = dsn_of(small, "app")
        with shop(dsn, "leak", 3), closing(psycopg.connect(dsn)) as innocent:
            answer(small.dsn())
            dry = doctor(small.dsn(), "--terminate")
            assert dry.stdout.count("would end: backend") == 3
            assert "nothing was done" in dry.stdout
            done = doctor(small.dsn(), "--terminate", "--yes")
            assert "ended 3 of 3 backends" in done.stdout
            assert done.stdout.count(f"shop.py:{line_of('LEAK')} in export_orders") >= 3
            innocent.execute("SELECT 1")
            after = doctor(small.dsn(), "--format", "json")
            kinds = [slot["keeper"] for slot in json.loads(after.stdout)["doctor"]["joined"]["slots"]]
            assert sorted(kinds) == ["doctor", "process"]


class TestShutOut:
    def test_full(self, small):
        """Without a door: one line with the cause on standard error, who holds what on standard output, exit 4."""
        with filled(dsn_of(small, "app")):
            done = doctor(dsn_of(small, "app"))
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1
        assert "the last slots are reserved" in done.stderr
        assert "53300" in done.stderr
        assert "REPLICATION, pg_monitor" in done.stdout

    def test_as_json(self, small):
        """A program gets JSON here, too."""
        with filled(dsn_of(small, "app")):
            done = doctor(dsn_of(small, "app"), "--format", "json")
        told = json.loads(done.stdout)
        assert (done.returncode, told["doctor"]) == (4, None)
        assert [attempt["refusal"]["kind"] for attempt in told["attempts"]] == ["reserved", "not_allowed"]

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda server: dsn_of(server, "scram", password="wrong"), "wrong password"),
            (lambda server: dsn_of(server, "scram"), "the server wants a password"),
            (lambda server: dsn_of(server, "app", "nowhere"), "no such database"),
            (lambda server: dsn_of(server, "nobody_may"), "pg_hba.conf does not admit"),
            (lambda server: dsn_of(server, "app", sslmode="require"), "TLS"),
            (lambda server: f"postgresql://app@127.0.0.1:{free_port()}/postgres", "nothing answers there"),
            (lambda server: "postgresql://app@no-such-host.invalid/postgres", "nothing answers there"),
        ],
    )
    def test_other_reasons(self, small, make, words, capsys, monkeypatch):
        """Each reason is one line with its own words, and exit 4."""
        monkeypatch.setenv("PGPASSFILE", "/no/such/file")
        assert main(["doctor", make(small)]) == 4
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert words in err

    def test_broken_off(self, small):
        """A server that hangs up in the middle of the answer is one line as well."""

        def answer(link):
            with socket.create_connection(("127.0.0.1", small.port)) as server:
                thread = threading.Thread(target=_forwarded, args=(server, link))
                thread.start()
                while (data := link.recv(65536)) and b"pg_stat_activity" not in data:
                    server.sendall(data)
                for end in (link, server):
                    end.shutdown(socket.SHUT_RDWR)
                thread.join(10)

        with listening(answer) as port:
            done = doctor(f"postgresql://app@127.0.0.1:{port}/postgres?sslmode=disable")
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1)
        assert "let us in, and then" in done.stderr


def _forwarded(source, target):
    while data := source.recv(65536):
        target.sendall(data)


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["mysql://u:secret@h/db"], "no PostgreSQL URI"),
            (["4242"], "neither a URI"),
            (["postgresql://u:se@cret@h/db"], "write %40"),
            (["host=127.0.0.1 sslmode=perhaps"], "sslmode"),
            (["--yes"], "--yes confirms --terminate"),
            (["--backend", "1"], "give that too"),
            (["--report", "/no/such/file"], "cannot read /no/such/file"),
            (["host=127.0.0.1", "--bouncer", "nonsense"], "the DSN of --bouncer"),
        ],
    )
    def test_one_line(self, arguments, words, capsys, monkeypatch):
        """What is typed wrong is told in one line that has no password in it, and exits 2."""
        monkeypatch.delenv("DATABASE_URL", raising=False)
        assert main(["doctor", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert words in err
        assert "cret" not in err

    def test_environment(self, small, capsys, monkeypatch):
        """Without an argument it is DATABASE_URL, and a mistake there is said to be there."""
        monkeypatch.setenv("DATABASE_URL", small.dsn().replace("postgresql:", "postgresql+psycopg:"))
        assert main(["doctor"]) == 0
        assert f"leakguard@127.0.0.1:{small.port}" in capsys.readouterr().out
        monkeypatch.setenv("DATABASE_URL", "sqlite:///shop.db")
        assert main(["doctor"]) == 2
        assert "DATABASE_URL is no PostgreSQL URI" in capsys.readouterr().err

    def test_libpq_environment(self, small, capsys, monkeypatch):
        """Without that too, it is what libpq's variables say."""
        monkeypatch.delenv("DATABASE_URL", raising=False)
        for name, value in (("PGHOST", "127.0.0.1"), ("PGPORT", str(small.port)), ("PGUSER", "leakguard")):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("PGDATABASE", "postgres")
        assert main(["doctor"]) == 0
        assert f"leakguard@127.0.0.1:{small.port}" in capsys.readouterr().out

    def test_event_files(self, small, tmp_path, capsys):
        """Files of other hosts are read; damaged lines are said, and change nothing."""
        file = tmp_path / "web9.jsonl"
        file.write_bytes(encode(make_leak(kind="orphaned")) + b"nonsense\n")
        assert main(["doctor", small.dsn(), "--report", str(file)]) == 0
        assert "skipped 1 line" in capsys.readouterr().err


class TestSecrets:
    def test_password(self, small, capsys, tmp_path):
        """The password is in neither form of the answer, nor in any complaint."""
        dsn = dsn_of(small, "scram", password=PASSWORD)
        for arguments in ([dsn], [dsn, "--format", "json"], [dsn, "--bouncer", dsn], [dsn, "--terminate"]):
            assert main(["doctor", *arguments]) in (0, 1)
            out, err = capsys.readouterr()
            assert PASSWORD not in out + err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--report", "events.jsonl", "DSN"],
            ["--report", f"host=h password={PASSWORD}"],
            ["DSN", "DSN"],
            ["DSN", "DSN", "--format", "json"],
            ["--process", "DSN"],
            ["DSN", "--no-such-option=DSN"],
            ["DSN", "--format", "DSN"],
            ["DSN", "--bouncer", f"postgresql://u:{PASSWORD}@@h"],
        ],
    )
    def test_dsn_in_the_wrong_place(self, arguments, capsys):
        """A DSN that is taken for something else is not repeated with its password."""
        dsn = f"postgresql://u:{PASSWORD}@127.0.0.1:1/db"
        try:
            code = main(["doctor", *(argument.replace("DSN", dsn) for argument in arguments)])
        except SystemExit as error:
            code = error.code
        assert code == 2
        out, err = capsys.readouterr()
        assert err
        assert PASSWORD not in out + err

    def test_what_others_named(self, small):
        """Names of threads, files, labels, roles and programs, and statements, move no cursor and forge no line."""
        with ExitStack() as stack:
            connections = [
                stack.enter_context(closing(psycopg.connect(small.dsn(), application_name=EVIL))) for _ in range(2)
            ]
            for connection in connections:
                connection.execute(f"SELECT 1 AS {psycopg.sql.Identifier(EVIL).as_string()}")
            hold = hold_of(connections[0], proven=True, kept_by=(EVIL,), pool=EVIL, last_statement=EVIL)
            site = hold.hold.site
            evil = type(site)(file=f"/{EVIL}", line=1, function=EVIL, code=EVIL)
            owner = type(hold.hold.owner)(
                pid=os.getpid(), process=EVIL, host=EVIL, thread=EVIL, task=EVIL, test=EVIL, labels={EVIL: EVIL}
            )
            holder = type(hold.hold)(
                **{name: getattr(hold.hold, name) for name in type(hold.hold).__slots__}
                | {"site": evil, "owner": owner}
            )
            snapshot = snapshot_of(
                type(hold)(**{name: getattr(hold, name) for name in type(hold).__slots__} | {"hold": holder}),
                process=EVIL,
                version=EVIL,
            )
            text = render.as_text(examined(small.dsn(), snapshot))
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text)
        assert not any(line.startswith("LEAK") for line in text.splitlines())
