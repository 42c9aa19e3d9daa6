"""Starts the processes that are measured, gives them orders, and lets all variants of a subject take turns."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import telemetry
from timing import Measure, Taken
from variants import (
    ASYNC_PSYCOPG_POOL,
    ASYNC_SQLALCHEMY,
    ECHO,
    LISTENER,
    PSYCOPG_POOL,
    SETTINGS,
    SQLALCHEMY,
    SUBJECTS,
    TELEMETRY,
    TRACEMALLOC,
)

REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARIES = {
    PSYCOPG_POOL: "psycopg",
    ASYNC_PSYCOPG_POOL: "psycopg",
    SQLALCHEMY: "sqlalchemy",
    ASYNC_SQLALCHEMY: "sqlalchemy",
}
"""What OpenTelemetry instruments for a subject."""


def quiet_environment(**more: str) -> dict[str, str]:
    """The environment without what changes an interpreter, leakguard, pytest or OpenTelemetry."""
    prefixes = ("PYTHON", "LEAKGUARD", "PYTEST", "OTEL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    if "PYTHONPYCACHEPREFIX" in os.environ:
        kept["PYTHONPYCACHEPREFIX"] = os.environ["PYTHONPYCACHEPREFIX"]
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def command(subjects: Sequence[str], dsn: str, size: int, *, flags: Sequence[str] = (), library: str = "") -> list[str]:
    """What starts a process for some subjects: flags of the interpreter, and what OpenTelemetry instruments."""
    program = [sys.executable, *flags, str(Path(__file__).with_name("worker.py")), f"--dsn={dsn}", f"--size={size}"]
    return [*program, *([f"--telemetry={library}"] if library else []), *subjects]


def processor_time_of(command: Sequence[str], **arguments: Any) -> float:
    """Run a program to its end; the processor time that it took. Its clock would tell what else the machine does."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, **arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Worker:
    """One process, with open subjects. A context manager; not thread-safe.

    Raises RuntimeError where the process ends by itself; it has said why on standard error.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=quiet_environment(),
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def wait_until_ready(self) -> None:
        """Return when its subjects are open."""
        self._answer()

    def order(self, **order: object) -> Taken:
        """Have one thing measured."""
        assert self._process.stdin is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        seconds, cpu = json.loads(self._answer())
        return seconds, cpu

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"A process that is measured has ended with status {self._process.wait()}.")
        return line


class Workers:
    """The processes that know the variants of all subjects."""

    def __init__(self, by_variant: Mapping[tuple[str, str], Worker]) -> None:
        self._by_variant = by_variant

    def variants(self, subject: str) -> list[str]:
        """What can be measured of a subject, bare first."""
        return [variant for known, variant in self._by_variant if known == subject]

    def timed(self, subject: str, variant: str, use: str, depth: int) -> Measure:
        """Times a use, "pair" or "select", below a stack so deep."""
        return self._measure(subject, variant, use=use, depth=depth, workers=0)

    def loaded(self, subject: str, variant: str, use: str, workers: int) -> Measure:
        """Times a use by so many threads or tasks at once."""
        return self._measure(subject, variant, use=use, depth=0, workers=workers)

    def _measure(self, subject: str, variant: str, **order: object) -> Measure:
        worker = self._by_variant[subject, variant]
        return lambda times: worker.order(subject=subject, variant=variant, times=times, **order)


@contextmanager
def plain_worker(dsn: str, size: int) -> Iterator[Workers]:
    """One process, for the variants that need none of their own; its pools have `size` connections each."""
    with Worker(command(SUBJECTS, dsn, size)) as worker:
        worker.wait_until_ready()
        yield Workers(_plain(worker))


@contextmanager
def all_workers(dsn: str, frames: int) -> Iterator[Workers]:
    """Processes for all variants, with pools of one connection; tracemalloc keeps so many frames.

    Without OpenTelemetry installed, its variant is missing.
    """
    flags = ("-X", f"tracemalloc={frames}", "-W", "always::ResourceWarning")
    with ExitStack() as stack:
        plain = stack.enter_context(Worker(command(SUBJECTS, dsn, 1)))
        found = _plain(plain)
        started = [plain]
        for library in telemetry.LIBRARIES if telemetry.is_installed() else ():
            subjects = [subject for subject in SUBJECTS if LIBRARIES[subject] == library]
            started.append(stack.enter_context(Worker(command(subjects, dsn, 1, library=library))))
            found |= {(subject, TELEMETRY): started[-1] for subject in subjects}
        started.append(stack.enter_context(Worker(command(SUBJECTS, dsn, 1, flags=flags))))
        found |= {(subject, TRACEMALLOC): started[-1] for subject in SUBJECTS}
        for worker in started:
            worker.wait_until_ready()
        yield Workers(found)


def _plain(worker: Worker) -> dict[tuple[str, str], Worker]:
    found = {(subject, variant): worker for subject in SUBJECTS for variant in (*SETTINGS, LISTENER)}
    return found | {(subject, ECHO): worker for subject in (SQLALCHEMY, ASYNC_SQLALCHEMY)}
