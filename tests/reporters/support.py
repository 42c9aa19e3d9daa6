"""What the tests of the exporters share: a reader of the register, and the server's own view."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
from psycopg import pq

import leakguard
from leakguard.register.records import PoolRecord
from leakguard.telling.durations import Duration
from leakguard.telling.metrics import METRICS, read_all
from leakguard.telling.registry import PoolReading, Readings, Registry
from tests.integrations.support import Lab

ROOT = Path(__file__).parents[2]


class Gauge:
    """An exporter that exports nothing: the tests read what the others would."""

    def __init__(self, lab: Lab, guard: leakguard.Guard | None = None) -> None:
        self.durations: list[tuple[Duration, str, float]] = []
        self.registry: Registry
        self.beats: list[bool] = []
        self._lab = lab
        (guard or lab.guard).configure(on_leak=[lab.events.append, self])

    def report(self, event: object) -> None:
        pass

    def attach(self, registry: Registry) -> None:
        self.registry = registry
        registry.subscribe(self)

    def close(self) -> None:
        self.registry.unsubscribe(self)

    def observe(self, duration: Duration, pool: str, seconds: float) -> None:
        self.durations.append((duration, pool, seconds))

    def beat(self, *, last: bool) -> None:
        self.beats.append(last)

    def forget(self) -> None:
        self.durations.clear()

    def read(self) -> Readings:
        self._lab.runtime.beat()
        self.registry.flush()
        return self.registry.read()

    def pool(self, name: str) -> PoolReading:
        """The reading of one pool, which must be there."""
        (found,) = [pool for pool in self.read().pools if pool.name == name]
        return found

    def record(self, name: str) -> PoolRecord:
        """The record behind it."""
        (found,) = [record for record in self._lab.tracker.records() if record.name == name]
        return found

    def pools(self) -> list[str]:
        return [pool.name for pool in self.read().pools if not pool.direct]

    def of(self, duration: Duration) -> list[float]:
        self.read()
        return [seconds for kind, _, seconds in self.durations if kind == duration]

    def metric(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        (metric,) = [metric for metric in METRICS if metric.name == name]
        return read_all(metric, [self.read()])


class ServerSide:
    """The server's own count of the sessions with one application name. Its connection is below what is watched."""

    def __init__(self, dsn: str, application_name: str) -> None:
        self._admin = pq.PGconn.connect(dsn.encode())
        self._name = application_name

    def sessions(self) -> int:
        result = self._admin.exec_params(
            b"SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", [self._name.encode()]
        )
        value = result.get_value(0, 0)
        assert value is not None
        return int(value)

    def close(self) -> None:
        self._admin.finish()


def run_program(source: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own, which does not warn of a fork with threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LEAKGUARD_", "OTEL_"))}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore:This process:DeprecationWarning",
            **environment,
        },
    )


def named(dsn: str, application_name: str) -> str:
    """The DSN with an application name."""
    return psycopg.conninfo.make_conninfo(dsn, application_name=application_name)
