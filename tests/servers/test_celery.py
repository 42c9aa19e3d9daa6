"""Celery's prefork pool: every child finds its own leaks, and sums up although it leaves by ``os._exit()``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers.conftest import Start
from tests.servers.support import EXAMPLES, PATIENCE, Program, assert_silent, assert_sound, leaks_at

pytestmark = pytest.mark.slow
pytest.importorskip("celery")

CELERY = EXAMPLES / "servers" / "celery_app.py"
WORKER = ["-m", "celery", "-A", "celery_app", "worker", "--pool", "prefork", "--concurrency", "2"]
CLIENT = """
import sys
import celery_app

task = getattr(celery_app, sys.argv[1])
for result in [task.delay() for _ in range(int(sys.argv[2]))]:
    result.get(timeout=float(sys.argv[3]), interval=0.02)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Path:
    """The directory that is the broker."""
    path = tmp_path / "broker"
    path.mkdir()
    return path


def call(task: str, times: int, broker: Path, dsn: str) -> None:
    """Have a task done so many times, and wait for it."""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CLIENT, task, str(times), str(PATIENCE)],
        cwd=CELERY.parent,
        env={"BROKER_DIRECTORY": str(broker), "DATABASE_URL": dsn, "PYTHONDONTWRITEBYTECODE": "1"},
        check=True,
        timeout=PATIENCE,
    )


def work(start: Start, broker: Path, *options: str) -> Program:
    """A worker with two processes."""
    return start([*WORKER, *options], BROKER_DIRECTORY=str(broker), PYTHONPATH=str(CELERY.parent))


def test_leaks_are_found(start: Start, broker: Path, dsn: str) -> None:
    """In the child that leaked, once; the parent has none."""
    worker = work(start, broker)
    call("export_leaky", 3, broker, dsn)
    worker.wait_for(lambda: leaks_at(worker, CELERY, "export_leaky"))
    events = worker.stop()
    assert_sound(events)
    leaks = leaks_at(worker, CELERY, "export_leaky")
    assert {leak["kind"] for leak in leaks} == {"dropped"}
    summaries = {event["pid"]: event["leaks"].get("dropped", 0) for event in events if event["event"] == "summary"}
    assert sum(summaries.values()) == 3
    assert summaries[worker.pid] == 0
    assert len(summaries) == 3


def test_clean_tasks_are_silent(start: Start, broker: Path, dsn: str) -> None:
    """The clean twin, a hundred times; the pool that each child closes at its end is no leak."""
    worker = work(start, broker)
    call("export", 100, broker, dsn)
    assert_silent(worker.stop())


def test_a_recycled_child_sums_up(start: Start, broker: Path, dsn: str) -> None:
    """With ``--max-tasks-per-child`` children leave all the time; each has written its summary."""
    worker = work(start, broker, "--max-tasks-per-child", "2")
    call("export", 8, broker, dsn)
    events = worker.stop()
    assert_silent(events)
    assert sum(event["acquired"] for event in events) == 8
