"""OpenTelemetry, by its real SDK: metrics, log records of the acquiring span, and a collector that is not there."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine

import leakguard
from leakguard.model import Trace
from leakguard.reporters.otel import OpenTelemetryReporter
from leakguard.telling.metrics import BUCKETS, DURATIONS, METRICS
from tests.factories import make_exhausted, make_hold, make_leak, make_recovered, make_summary
from tests.integrations.support import Lab, laboratory, steady, url_for
from tests.reporters.support import run_program

pytest.importorskip("opentelemetry.sdk")
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

POOL = "db.client.connection.pool.name"


class Backend:
    """What the reporter exports to, and what has arrived there."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemoryLogRecordExporter()
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._exporter))

    def reporter(self) -> OpenTelemetryReporter:
        return OpenTelemetryReporter(meter_provider=self.meter_provider, logger_provider=self.logger_provider)

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric, collected now."""
        collected = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in (collected.resource_metrics if collected is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def values(self, name: str, *keys: str) -> dict[Any, Any]:
        """The values of a metric by the values of these attributes."""
        points = self.metrics().get(name, [])
        return {tuple(point.attributes[key] for key in keys): point.value for point in points}

    def records(self) -> list[Any]:
        return [found.log_record for found in self._exporter.get_finished_logs()]

    def close(self) -> None:
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()


@pytest.fixture
def backend() -> Iterator[Backend]:
    """An SDK that keeps everything in memory."""
    backend = Backend()
    yield backend
    backend.close()


# ------------------------------------------------------------------------------------------------------------ metrics


def test_the_metrics_come_from_the_register(lab: Lab, backend: Backend, dsn: str) -> None:
    """At every collection anew, under the names of the conventions."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    with ConnectionPool(dsn, min_size=2, max_size=3, name="shop") as pool:
        steady(pool)
        with pool.connection():
            lab.moment += 90.0
            count = backend.values("db.client.connection.count", POOL, "db.client.connection.state")
            assert count == {("direct connections", "used"): 0, ("shop", "idle"): 1, ("shop", "used"): 1}
            assert backend.values("db.client.connection.max", POOL) == {("shop",): 3}
            assert backend.values("leakguard.holds.oldest", POOL) == {("shop",): 90.0}
        pool.getconn()
        lab.collect()
        assert backend.values("leakguard.slots.lost", POOL) == {("shop",): 1}
    (leak,) = [leak for leak in lab.leaks if leak.kind == "dropped"]
    leaks = backend.values("leakguard.leaks", "leakguard.kind", POOL, "leakguard.fingerprint")
    assert leaks[("dropped", "shop", leak.fingerprint)] == 1


def test_every_metric_of_the_table_is_exported(lab: Lab, backend: Backend, dsn: str) -> None:
    """With nothing left out, and nothing added."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    with ConnectionPool(dsn, min_size=1, max_size=3, name="shop") as pool:
        steady(pool)
        with pool.connection():
            pass
        pool.getconn()
        lab.collect()
        lab.tracker.meter.flush()
        assert set(backend.metrics()) == {one.name for one in (*METRICS, *DURATIONS)}


def test_durations_are_histograms_with_our_buckets(lab: Lab, backend: Backend, dsn: str) -> None:
    """Their counts and sums are exact."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    with ConnectionPool(dsn, min_size=1, name="shop") as pool:
        steady(pool)
        for seconds in (0.25, 0.25, 20.0):
            with pool.connection():
                lab.moment += seconds
        lab.tracker.meter.flush()
        (point,) = backend.metrics()["db.client.connection.use_time"]
    assert (point.count, point.sum, dict(point.attributes)) == (3, 20.5, {POOL: "shop"})
    assert tuple(point.explicit_bounds) == BUCKETS
    assert point.bucket_counts[BUCKETS.index(0.5)] == 2
    assert point.bucket_counts[BUCKETS.index(30.0)] == 1


def test_a_pool_that_is_gone_is_observed_no_more(lab: Lab, backend: Backend, dsn: str) -> None:
    """The SDK remembers attributes for ever, but reports what is observed."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    pool = ConnectionPool(dsn, min_size=0, max_size=4, name="shop", open=False)
    assert backend.values("db.client.connection.max", POOL) == {("shop",): 4}
    del pool
    lab.collect()
    assert backend.values("db.client.connection.max", POOL) == {}


def test_two_guards_export_to_one_provider(lab: Lab, backend: Backend, dsn: str) -> None:
    """Each its own pools, and sums where they share a name: a second set of instruments would export nothing."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    with (
        ConnectionPool(dsn, min_size=0, max_size=4, name="one", open=False) as one,
        ConnectionPool(dsn, min_size=0, max_size=4, name="same", open=False),
        ConnectionPool(dsn, min_size=0, max_size=3, name="same", open=False) as other,
        leakguard.watch(other, on_leak=backend.reporter()),
    ):
        assert backend.values("db.client.connection.max", POOL) == {("one",): 4, ("same",): 7}
    assert one.closed


def test_a_reporter_can_leave_and_come_back(backend: Backend) -> None:
    """Whoever configures anew loses no metrics, and whoever uninstalls leaves none behind."""
    with laboratory() as lab:
        reporter = backend.reporter()
        for _ in range(2):
            lab.guard.configure(on_leak=[lab.events.append, reporter])
            assert backend.values("db.client.connection.count", POOL) == {("direct connections",): 0}
            lab.guard.configure(on_leak=lab.events.append)
            assert backend.metrics() == {}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["provider first", "leakguard first", "named first"])
def test_the_applications_own_provider_is_used(order: str, dsn: str) -> None:
    """Also if it is set up after leakguard, as under ``leakguard run``, and named to a second reporter later on."""
    done = run_program(
        """
        import sys, time
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        import leakguard
        from leakguard.reporters.otel import OpenTelemetryReporter

        reader = InMemoryMetricReader()
        provider = MeterProvider([reader])
        first = lambda: metrics.set_meter_provider(provider)
        second = lambda: leakguard.install(export="otel", on_leak=lambda event: None)
        named = lambda: leakguard.install(on_leak=OpenTelemetryReporter(meter_provider=provider))
        steps = {"provider": (first, second), "leakguard": (second, first), "named": (named, first, second)}
        for step in steps[sys.argv[1].split()[0]]:
            step()

        def exported():
            data = reader.get_metrics_data()
            scopes = [scope for one in data.resource_metrics for scope in one.scope_metrics]
            return [metric.name for scope in scopes for metric in scope.metrics]

        names = exported()
        assert "db.client.connection.count" in names, names
        named()
        assert exported() == names, exported()
        """,
        order,
    )
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------------- events


def test_a_leak_is_a_log_record_of_the_span_that_acquired(lab: Lab, backend: Backend, dsn: str) -> None:
    """Though it is told by another thread, or within another span, long after."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    tracer = TracerProvider().get_tracer("shop")
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        with tracer.start_as_current_span("GET /export") as span:
            pool.getconn()
        with tracer.start_as_current_span("GET /other"):
            lab.collect()
    leak = lab.only("dropped", mark=None)
    acquiring = span.get_span_context()
    assert leak.hold is not None
    assert leak.hold.trace == Trace(trace_id=f"{acquiring.trace_id:032x}", span_id=f"{acquiring.span_id:016x}")
    (record,) = backend.records()
    assert (record.trace_id, record.span_id) == (acquiring.trace_id, acquiring.span_id)
    assert (record.event_name, record.severity_text) == ("leakguard.leak", "ERROR")
    assert record.body.startswith("LEAK dropped connection")
    attributes = dict(record.attributes)
    assert attributes["leakguard.kind"] == "dropped"
    assert attributes["leakguard.fingerprint"] == leak.fingerprint
    assert attributes[POOL] == "shop"
    assert leak.site is not None
    assert (attributes["code.file.path"], attributes["code.line.number"]) == (leak.site.file, leak.site.line)


async def test_the_span_is_found_below_an_async_engine(lab: Lab, backend: Backend, dsn: str) -> None:
    """SQLAlchemy acquires on a greenlet there; and an acquire that is only advice has its span, too."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    tracer = TracerProvider().get_tracer("shop")
    engine = create_async_engine(url_for(dsn, "asyncpg"), pool_size=2)
    with tracer.start_as_current_span("GET /outer") as outer:
        async with engine.connect():
            (hold,) = leakguard.holds()
            with tracer.start_as_current_span("GET /inner") as inner:
                async with engine.connect():
                    pass
    lab.advance(1.0)
    await engine.dispose()
    assert hold.trace is not None
    assert hold.trace.span_id == f"{outer.get_span_context().span_id:016x}"
    assert [record.span_id for record in backend.records()] == [inner.get_span_context().span_id]
    lab.only("nested_acquire", mark=None)


def test_what_was_acquired_in_no_span_belongs_to_none(lab: Lab, backend: Backend, dsn: str) -> None:
    """Least of all to the span in which somebody happens to ask for a check."""
    lab.guard.configure(on_leak=[lab.events.append, backend.reporter()])
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        pool.getconn()
        with TracerProvider().get_tracer("shop").start_as_current_span("GET /other"):
            lab.collect()
    leak = lab.only("dropped", mark=None)
    assert leak.hold is not None
    assert leak.hold.trace is None
    (record,) = backend.records()
    assert (record.trace_id, record.span_id) == (0, 0)


@pytest.mark.parametrize(
    ("event", "severity", "told"),
    [
        (make_leak(), 17, {"leakguard.kind": "dropped", "leakguard.count": 3}),
        (make_leak(kind="overdue", certain=False), 13, {"leakguard.certain": False}),
        (make_recovered(), 9, {"leakguard.kind": "overdue"}),
        (make_exhausted(), 17, {"leakguard.cause": "pool"}),
        (make_summary(), 9, {"leakguard.internal_errors": 0}),
        (make_leak(hold=None, site=None, pool=None), 17, {"leakguard.kind": "dropped"}),
        (make_leak(hold=make_hold(server=None)), 17, {"leakguard.library": "psycopg_pool"}),
    ],
    ids=["proven", "suspected", "recovered", "exhausted", "summary", "bare", "without a server"],
)
def test_every_event_is_a_log_record(backend: Backend, event: Any, severity: int, told: dict[str, object]) -> None:
    """With the severity of how bad it is, and attributes that a backend can search for; none is null."""
    backend.reporter().report(event)
    (record,) = backend.records()
    assert record.severity_number.value == severity
    assert record.timestamp == pytest.approx(event.time.timestamp() * 1e9, abs=1e3)
    assert record.event_name == f"leakguard.{event.event}"
    attributes = dict(record.attributes)
    assert attributes | told == attributes
    assert None not in attributes.values()
    json.dumps(attributes)


# ---------------------------------------------------------------------------------------------------- a bad day


@pytest.mark.slow
def test_a_collector_that_is_not_there_is_no_matter(dsn: str) -> None:
    """The application runs, is not delayed, and leakguard itself adds no word to what OpenTelemetry logs of it."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    started = time.monotonic()
    done = run_program(
        """
        import logging, sys, time
        from opentelemetry import _logs, metrics
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        import leakguard
        from psycopg_pool import ConnectionPool

        said = []
        class Keep(logging.Handler):
            def emit(self, record): said.append(record)
        logging.getLogger().addHandler(Keep())

        reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=0.5), export_interval_millis=200)
        metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
        provider = LoggerProvider(shutdown_on_exit=False)
        exporter = OTLPLogExporter(timeout=0.5)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=200))
        _logs.set_logger_provider(provider)

        guard = leakguard.install(export="otel", on_leak=lambda event: None)
        slowest = 0.0
        with ConnectionPool(sys.argv[1], min_size=2, max_size=4, name="shop") as pool:
            pool.wait()
            end = time.monotonic() + 2.0
            while time.monotonic() < end:
                began = time.monotonic()
                with pool.connection():
                    pass
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.01)
            pool.getconn()
            assert [leak.kind for leak in guard.check()] == ["dropped"]
        assert guard.summary().internal_errors == 0
        assert {record.name.partition(".")[0] for record in said} == {"opentelemetry"}, said
        print(slowest)
        """,
        dsn,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert float(done.stdout) < 0.5
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_a_forked_child_exports_its_own(dsn: str) -> None:
    """As gunicorn's workers do: each of them has its own register, and the SDK starts its own threads again."""
    done = run_program(
        """
        import os, sys
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        import leakguard
        from psycopg_pool import ConnectionPool

        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader], shutdown_on_exit=False))
        guard = leakguard.install(export="otel", on_leak=lambda event: None)

        def used():
            points = [
                (point.attributes["db.client.connection.pool.name"], point.value)
                for one in reader.get_metrics_data().resource_metrics
                for scope in one.scope_metrics
                for metric in scope.metrics if metric.name == "db.client.connection.count"
                for point in metric.data.data_points if point.attributes["db.client.connection.state"] == "used"
            ]
            return {name: value for name, value in points if value}

        pool = ConnectionPool(sys.argv[1], min_size=2, max_size=2, name="parent")
        connections = pool.getconn(), pool.getconn()
        assert used() == {"parent": 2}, used()
        if os.fork() == 0:
            mine = ConnectionPool(sys.argv[1], min_size=1, max_size=1, name="child")
            connection = mine.getconn()
            assert used() == {"child": 1}, used()
            mine.putconn(connection)
            mine.close()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        assert used() == {"parent": 2}, used()
        for connection in connections:
            pool.putconn(connection)
        pool.close()
        """,
        dsn,
    )
    assert (done.returncode, done.stderr) == (0, "")
