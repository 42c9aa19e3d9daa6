"""Servers and programs for the tests of this directory; whatever they start is ended with the test."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.support import PATIENCE, ROOT, Event, Program, Web, clean_environment

Serve = Callable[..., Web]
Start = Callable[..., Program]


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a program: ``start(command, *options of leakguard run, **environment)``."""
    with ExitStack() as stack:

        def start(
            command: list[str],
            *options: str,
            kind: type[Program] = Program,
            guarded: bool = True,
            **environment: str,
        ) -> Program:
            program = kind(command, tmp_path, *options, guarded=guarded, DATABASE_URL=dsn, **environment)
            stack.callback(program.kill)
            return program

        yield start


@pytest.fixture
def serve(start: Start) -> Serve:
    """Starts a web server, like `start`, and waits for it; the command names its port as ``{port}``."""

    def serve(command: list[str], *options: str, guarded: bool = True, **environment: str) -> Web:
        web: Web = start(command, *options, kind=Web, guarded=guarded, **environment)  # type: ignore[assignment]
        web.wait_for(web.answers)
        return web

    return serve


@dataclass(frozen=True)
class Done:
    """What became of a program: what it said by ``say()``, what it wrote to standard error, what was reported."""

    said: list[Any]
    errors: str
    events: list[Event]

    def kinds(self) -> list[tuple[str, str | None]]:
        """The leaks in the order in which they were told: kind, and function of the site."""
        leaks = [event for event in self.events if event["event"] == "leak"]
        return [(leak["kind"], leak["site"] and leak["site"]["function"]) for leak in leaks]


Run = Callable[..., Done]

PREAMBLE = """
def say(*facts):
    import json
    print(json.dumps(facts), flush=True)

import os
DSN = os.environ["DATABASE_URL"]
"""


@pytest.fixture
def run(dsn: str, tmp_path: Path) -> Run:
    """Runs the source of a program under ``leakguard run`` (with `bare`: without), to its end."""

    def run(source: str, *options: str, status: int = 0, bare: bool = False) -> Done:
        program, report = tmp_path / "program.py", tmp_path / "report.jsonl"
        program.write_text(PREAMBLE + textwrap.dedent(source))
        report.unlink(missing_ok=True)
        guarded = ["-m", "leakguard", "run", "--quiet", "--report", str(report), *options, "--", sys.executable]
        done = subprocess.run(
            [sys.executable, *([] if bare else guarded), "-W", "ignore::ResourceWarning", str(program)],
            cwd=tmp_path,
            env={**clean_environment(), "DATABASE_URL": dsn, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            check=False,
        )
        assert done.returncode == status, f"{done.returncode}\n{done.stdout}{done.stderr}"
        events = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
        return Done([json.loads(line) for line in done.stdout.splitlines()], done.stderr, events)

    return run
