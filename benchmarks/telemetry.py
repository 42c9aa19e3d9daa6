"""OpenTelemetry's instrumentation of one library, with its SDK as a service has it, and exporters that send nothing."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec

LIBRARIES = ("psycopg", "sqlalchemy")
PACKAGES = (
    "opentelemetry.sdk",
    "opentelemetry.instrumentation.psycopg",
    "opentelemetry.instrumentation.sqlalchemy",
)


def is_installed() -> bool:
    """Whether everything is there that `instrument` needs."""
    parents = ("opentelemetry", "opentelemetry.instrumentation")  # each must be there before its children are asked for
    return all(find_spec(name) is not None for name in (*parents, *PACKAGES))


class Spans:
    """The SDK, set up; it counts the spans that reach the exporter."""

    def __init__(self) -> None:
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import (
            MetricExporter,
            MetricExportResult,
            MetricsData,
            PeriodicExportingMetricReader,
        )
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        spans = self
        self.count = 0

        class CountSpans(SpanExporter):
            def export(self, found: Sequence[ReadableSpan]) -> SpanExportResult:
                spans.count += len(found)
                return SpanExportResult.SUCCESS

        class ForgetMetrics(MetricExporter):
            def export(self, metrics_data: MetricsData, *_: object, **__: object) -> MetricExportResult:
                return MetricExportResult.SUCCESS

            def force_flush(self, timeout_millis: float = 0.0) -> bool:
                return True

            def shutdown(self, *_: object, **__: object) -> None:
                pass

        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(CountSpans()))
        trace.set_tracer_provider(self._provider)
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(ForgetMetrics())]))

    def flushed(self) -> int:
        """How many there have been so far."""
        self._provider.force_flush()
        return self.count


def instrument(library: str) -> Spans:
    """Instrument one of `LIBRARIES`, and not the other: before its pools or engines are made."""
    spans = Spans()
    if library == "sqlalchemy":
        # Imported before, or async engines would be made by a function that is instrumented already, and count twice.
        importlib.import_module("sqlalchemy.ext.asyncio")
        from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

        # It says that it does not know SQLAlchemy 2.1, and works: the worker sees to it that spans come.
        SQLAlchemyInstrumentor().instrument(skip_dep_check=True)
    else:
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

        PsycopgInstrumentor().instrument()
    return spans
