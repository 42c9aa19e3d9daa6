"""Runs the servers of `examples/` under ``leakguard run``, sends them requests, and reads what was reported."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 30.0
"""Seconds to wait for what a busy machine may be slow at; a good run needs less than one."""
Event = dict[str, Any]


class Program:
    """A program under ``leakguard run`` (unless it is not `guarded`), and the events that it and its children write."""

    def __init__(
        self, command: Sequence[str], folder: Path, *options: str, guarded: bool = True, **environment: str
    ) -> None:
        self._report = folder / "report.jsonl"
        self._output = folder / "output.txt"
        run = [sys.executable, "-W", "ignore", "-m", "leakguard", "run", *options, "--report", str(self._report), "--"]
        path = os.pathsep.join(filter(None, [str(ROOT), environment.pop("PYTHONPATH", "")]))
        with self._output.open("w") as output:
            self._process = subprocess.Popen(
                [*(run if guarded else []), sys.executable, *command],
                cwd=folder,
                env={**clean_environment(), "PYTHONPATH": path, **environment},
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A shell that runs the tests in the background has them, and so this, ignore Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def pid(self) -> int:
        """The process that was started: ``leakguard run`` is replaced by it."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors="replace")

    def events(self, *names: str) -> list[Event]:
        """What was reported so far; a line that is being written is left out."""
        lines = self._report.read_text().splitlines(keepends=True) if self._report.exists() else []
        events = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in events if not names or event["event"] in names]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Wait until it holds; the program must not end meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, f"it has ended with {self._process.returncode}\n{self.output}"
            assert time.monotonic() < deadline, f"in vain\n{self.events('leak')}\n{self.output}"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> list[Event]:
        """End it as an operator does, by SIGTERM, or as a developer does, by Ctrl-C; returns all events."""
        self._process.send_signal(number)
        try:
            self._process.wait(PATIENCE)
        finally:
            self.kill()
        return self.events()

    def kill(self) -> None:
        """Leave nothing behind, whatever has happened: no worker either."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()


class Web(Program):
    """A web server on a free port of 127.0.0.1, which the command names as ``{port}``."""

    def __init__(
        self, command: Sequence[str], folder: Path, *options: str, guarded: bool = True, **environment: str
    ) -> None:
        self._port = _free_port()
        command = [part.format(port=self._port) for part in command]
        super().__init__(command, folder, *options, guarded=guarded, **environment)

    def answers(self) -> bool:
        """Whether it listens."""
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE):
                return True
        except OSError:
            return False

    def get(self, path: str) -> str:
        """The body of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
            assert response.status == 200, f"{path}: {response.status}\n{body[:500]}\n{self.output}"
            return body
        finally:
            connection.close()

    def get_often(self, *paths: str, times: int = 100) -> None:
        """A hundred requests, four at a time."""
        with ThreadPoolExecutor(4) as executor:
            for body in executor.map(self.get, [paths[number % len(paths)] for number in range(times)]):
                assert body


def clean_environment() -> dict[str, str]:
    """The environment without what the tests' own run has put there."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("LEAKGUARD_", "PYTEST"))}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def leaking_line(file: Path, function: str) -> int:
    """The line marked ``# LEAK`` in a function (``outer.inner`` for one inside another)."""
    lines = file.read_text().splitlines()
    start = 0
    for name in function.split("."):
        start = next(number for number in range(start, len(lines)) if f"def {name}(" in lines[number])
    return next(number for number in range(start, len(lines)) if "# LEAK" in lines[number]) + 1


def leaks_at(program: Program, file: Path, function: str) -> list[Event]:
    """The certain leaks that were reported at the marked line of that function."""
    line, name = leaking_line(file, function), function.rpartition(".")[2]
    return [
        event
        for event in program.events("leak")
        if event["certain"]
        and event["site"]
        and (event["site"]["file"], event["site"]["line"], event["site"]["function"]) == (str(file), line, name)
    ]


def assert_sound(events: Sequence[Event]) -> None:
    """No error of leakguard's own, exact accounts, and each process's own hold once at most."""
    summaries = [event for event in events if event["event"] == "summary"]
    assert summaries
    for summary in summaries:
        assert summary["internal_errors"] == 0, summary
        assert summary["acquired"] == summary["released"] + summary["held"] + summary["leaked"], summary
    leaks = [event for event in events if event["event"] == "leak"]
    proven = [(leak["hold"]["owner"]["pid"], leak["hold"]["id"]) for leak in leaks if leak["certain"] and leak["hold"]]
    assert len(proven) == len(set(proven)), proven
    pids = {summary["pid"] for summary in summaries}
    assert {pid for pid, _ in proven} <= pids, "a process that leaked has written no summary"
    for pid in pids:
        found = {event["kind"]: 0 for event in leaks if event["hold"] and event["hold"]["owner"]["pid"] == pid}
        told = next(event["leaks"] for event in summaries if event["pid"] == pid)
        assert set(found) <= set(told), (told, found)


def assert_silent(events: Sequence[Event]) -> None:
    """Nothing was reported, and something was watched."""
    assert_sound(events)
    assert [event for event in events if event["event"] != "summary"] == []
    assert sum(event["acquired"] for event in events) > 0
