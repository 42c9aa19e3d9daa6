"""The runbook is true: each of its commands is typed on a server that is really full, and answers as the page shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from leakguard.demo.postgres import PostgresServer
from leakguard.incident.doctor import bouncer
from leakguard.live.client import snapshots
from tests.doctor.support import PGBOUNCER, pgbouncer, target_of, until
from tests.test_docs import DOCS, ROOT, Block, blocks_of, same_each_time

PAGE = DOCS / "runbook.md"
PATH = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
TYPED = [block for block in blocks_of(PAGE) if block.language == "console"]

pytestmark = pytest.mark.slow


def typed(words: str) -> Block:
    """The first block with these words in it."""
    return next(block for block in TYPED if words in block.text)


def same(text: str, directory: Path) -> str:
    """The text without what differs from run to run: here also ports, backends and versions."""
    text = same_each_time(text, directory)
    text = re.sub(r"127\.0\.0\.1(:\d+)?", "127.0.0.1", text)
    text = re.sub(r"\(PostgreSQL [\d.]+\)", "(PostgreSQL N)", text)
    return re.sub(r"backend \d+( \d+)*( and \d+ more)?", "backend N", text)


def answers(block: Block, server_port: int, directory: Path, port_shown: int | None = None) -> None:
    """Type the block's command at this port, and compare what it prints with the page."""
    status = re.search(r"status (\d)", block.test)
    assert status is not None, block
    command, _, expected = block.text.removeprefix("$ ").partition("\n")
    address = f"127.0.0.1:{port_shown}/" if port_shown else "127.0.0.1/"
    assert address in command
    line = command.replace(address, f"127.0.0.1:{server_port}/")
    line = line.replace("leakguard doctor", f"{shlex.quote(sys.executable)} -m leakguard doctor", 1)
    if "|" in line:  # the status of the doctor, not of tail
        line = f"set -o pipefail; {line}"
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told, wanted = same(done.stdout, directory), same(expected, directory)
    assert done.returncode == int(status[1]), f"{block}: {done.stdout}{done.stderr}"
    assert f"{told}\n".startswith(f"{wanted}\n"), f"{block}: {told}\n--- instead of\n{wanted}"


@contextmanager
def shop(dsn: str, directory: Path, count: int = 9) -> Iterator[None]:
    """The page's program, under leakguard, once its leaks are proven."""
    (program,) = [block for block in blocks_of(PAGE) if block.test == "file app.py"]
    (directory / "app.py").write_text(program.text.replace("range(9)", f"range({count})"))
    with subprocess.Popen(
        [sys.executable, "-m", "leakguard", "run", "--quiet", "--owner-grace", "0", "--", "python", "app.py"],
        cwd=directory,
        env={
            **os.environ,
            "DATABASE_URL": dsn,
            "PYTHONPATH": PATH,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "exported\n"
        try:
            _await_proof(process.pid, count)
            yield
        finally:
            process.kill()  # at its end, a pool that is not closed makes it wait for its threads


def _await_proof(pid: int, count: int) -> None:
    def is_proven() -> bool:
        answered = snapshots(pids=[pid]).snapshots
        return bool(answered) and sum(hold.proven for hold in answered[0].holds) == count

    until(is_proven, "the leaks to be proven")


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """The server of the page: seventeen slots for ordinary roles, and the role that the page makes."""
    (sql,) = [block for block in blocks_of(PAGE) if "CREATE ROLE" in block.text]
    with PostgresServer(max_connections=20) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            admin.execute("CREATE ROLE app LOGIN")
            admin.execute("CREATE DATABASE shop")
            admin.execute(sql.text)
        yield server


def dsn_of(server: PostgresServer, role: str) -> str:
    return server.dsn("shop").replace("leakguard@", f"{role}@")


def test_directly(server, tmp_path):
    """From the first command to the free server, and what it says when no door opens."""
    port = server.port
    answers(typed("room: 0 of 17"), port, tmp_path)
    with ExitStack() as stack:
        with shop(dsn_of(server, "app"), tmp_path):
            for _ in range(8):
                stack.enter_context(closing(psycopg.connect(dsn_of(server, "app"))))
            begun = time.monotonic()
            answers(typed("EXHAUSTED connection slots"), port, tmp_path)
            assert time.monotonic() - begun < 10, "the page says about a second"
            answers(typed("held by the guarded processes"), port, tmp_path)
            answers(typed("would end"), port, tmp_path)
            answers(typed("ended 9 of 9"), port, tmp_path)
            answers(typed("room: 8 of 17"), port, tmp_path)


@pytest.mark.skipif(PGBOUNCER is None, reason="needs pgbouncer")
def test_through_pgbouncer(server, tmp_path):
    """The pooler that is full has its line as well."""
    with pgbouncer(server, mode="transaction", size=4, database="shop") as pooler:
        with ExitStack() as stack, shop(pooler.dsn("app", "shop"), tmp_path, count=4):
            waiting = psycopg.pq.PGconn.connect(pooler.dsn("app", "shop").encode())
            stack.callback(waiting.finish)
            waiting.send_query(b"SELECT 1")
            console = target_of(pooler.console)
            # A client that has waited for less than a second is no exhaustion.
            until(
                lambda: any(pool.longest_wait > 1 for pool in bouncer.collect(console).pools), "a client to have waited"
            )
            answers(typed("PgBouncer's pool"), pooler.port, tmp_path, port_shown=6432)


def test_every_answer_is_typed():
    """No console block of the page is left to faith."""
    assert len(TYPED) == 7
    assert all("tests/doctor/test_runbook.py" in block.test for block in TYPED)
