"""OpenTelemetry: metrics by the conventions for database clients, and events as log records of the acquiring span.

Nothing is configured here: what the application, or ``opentelemetry-instrument``, sets up as provider is used, also
if that happens later.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from leakguard.model import Event, Exhausted, Hold, Leak, Recovered, Site, Summary, Trace
from leakguard.prose.events import render_event
from leakguard.reporters.shared import level_of, must_be_free, needs, site_of
from leakguard.telling.durations import Duration
from leakguard.telling.metrics import BUCKETS, DURATIONS, METRICS, Labels, Metric, read_all
from leakguard.telling.registry import Registry
from leakguard.version import __version__

if TYPE_CHECKING:
    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

SCOPE: Final = "leakguard"
"""The name of the instrumentation scope."""
POOL_NAME: Final = "db.client.connection.pool.name"
_ATTRIBUTES: Final = {
    "pool": POOL_NAME,
    "state": "db.client.connection.state",
    "kind": "leakguard.kind",
    "fingerprint": "leakguard.fingerprint",
    "site": "leakguard.site",
    "function": "code.function.name",
}
_SEVERITIES: Final = {"info": ("INFO", 9), "warning": ("WARN", 13), "error": ("ERROR", 17)}


class OpenTelemetryReporter:
    """Exports to OpenTelemetry. Raises SettingsError where the package opentelemetry-api is not installed.

    Without `meter_provider` and `logger_provider` the global ones are used. Thread-safe.
    """

    def __init__(
        self, *, meter_provider: MeterProvider | None = None, logger_provider: LoggerProvider | None = None
    ) -> None:
        with needs("otel"):
            from opentelemetry._logs import get_logger
        self._logger = get_logger(SCOPE, __version__, logger_provider)
        self._meter_provider = meter_provider
        self._instruments: _Instruments | None = None
        self._registry: Registry | None = None

    def attach(self, registry: Registry) -> None:
        """Export this guard's metrics from now on, and remember the span of whatever is acquired."""
        must_be_free(self._registry)
        self._registry = registry
        self._instruments = _instruments_of(self._meter_provider)
        self._instruments.registries.append(registry)
        registry.subscribe(self, trace=trace_reader())

    def close(self) -> None:
        """Export its metrics no more."""
        if self._registry is not None and self._instruments is not None:
            self._registry.unsubscribe(self)
            self._instruments.registries.remove(self._registry)
            self._registry = None

    def observe(self, duration: Duration, pool: str, seconds: float) -> None:
        """Record a duration."""
        if self._instruments is not None:
            self._instruments.durations[duration].record(seconds, {POOL_NAME: pool})

    def beat(self, *, last: bool) -> None:
        """Nothing: the SDK asks when it wants to know."""

    def forget(self) -> None:
        """Nothing: the SDK starts its own threads again, and keeps its own histograms."""

    def report(self, event: Event) -> None:
        """Emit the event as a log record."""
        from opentelemetry._logs import LogRecord, SeverityNumber

        text, number = _SEVERITIES[level_of(event)]
        self._logger.emit(
            LogRecord(
                timestamp=int(event.time.timestamp() * 1e9),
                context=_context_of(event),
                severity_text=text,
                severity_number=SeverityNumber(number),
                body=render_event(event) or event.event,
                attributes=_attributes_of(event),
                event_name=f"leakguard.{event.event}",
            )
        )


# ------------------------------------------------------------------------------------------------------------ metrics


class _Instruments:
    """The instruments of one meter provider. They cannot be taken back: without a registry, they observe nothing."""

    def __init__(self, provider: MeterProvider | None) -> None:
        from opentelemetry import metrics

        self.registries: list[Registry] = []
        meter = metrics.get_meter(SCOPE, __version__, provider)
        for metric in METRICS:
            make = {
                "updowncounter": meter.create_observable_up_down_counter,
                "counter": meter.create_observable_counter,
                "gauge": meter.create_observable_gauge,
            }[metric.kind]
            make(metric.name, [self._observing(metric)], metric.unit, metric.description)
        self.durations = {
            metric.duration: meter.create_histogram(
                metric.name, "s", metric.description, explicit_bucket_boundaries_advisory=BUCKETS
            )
            for metric in DURATIONS
        }

    def _observing(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            readings = [registry.read() for registry in self.registries]
            return [Observation(value, _named(labels)) for labels, value in read_all(metric, readings).items()]

        return observe


def _named(labels: Labels) -> dict[str, str]:
    return {_ATTRIBUTES[key]: value for key, value in labels}


_of_global: list[_Instruments] = []
_of_provider: weakref.WeakKeyDictionary[MeterProvider, _Instruments] = weakref.WeakKeyDictionary()


def _instruments_of(provider: MeterProvider | None) -> _Instruments:
    """Those of the provider: a second set of the same names would be refused, and export nothing."""
    from opentelemetry.metrics import get_meter_provider

    present = get_meter_provider()
    if provider is None or provider is present:
        if not _of_global:
            _of_global.append(_of_provider.get(present) or _Instruments(None))
        return _of_global[0]
    if provider not in _of_provider:
        _of_provider[provider] = _Instruments(provider)
    return _of_provider[provider]


# ------------------------------------------------------------------------------------------------------------- events


def trace_reader() -> Callable[[], Trace | None]:
    """A function that tells the span that is current in this thread or task. It runs at every acquire."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.span import INVALID_SPAN

    def current_trace() -> Trace | None:
        span = get_current_span()
        if span is INVALID_SPAN:
            return None
        context = span.get_span_context()
        if not context.is_valid:
            return None
        return Trace(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")

    return current_trace


def _context_of(event: Event) -> Context:
    """The context of the span that acquired. Never that of whoever happens to tell the event."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
    from opentelemetry.trace.span import INVALID_SPAN

    hold = _hold_of(event)
    if hold is None or hold.trace is None:
        return set_span_in_context(INVALID_SPAN, Context())
    trace = hold.trace
    # Sampled or not is not known any more; what drops the records of spans that were not would drop ours.
    flags = TraceFlags(TraceFlags.SAMPLED)
    span = SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote=False, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())


def _hold_of(event: Event) -> Hold | None:
    return event.hold if isinstance(event, Leak | Recovered) else None


def _attributes_of(event: Event) -> dict[str, str | int | float | bool]:
    """Flat, and without what is null: a backend can search for these."""
    found: dict[str, str | int | float | bool | None] = {}
    match event:
        case Leak():
            found = {
                "leakguard.kind": event.kind,
                "leakguard.certain": event.certain,
                "leakguard.healed": event.healed,
                "leakguard.fingerprint": event.fingerprint,
                "leakguard.count": event.count,
                "leakguard.reason": event.reason,
                "leakguard.advice": event.advice,
                POOL_NAME: event.pool.name if event.pool is not None else None,
                **_of_hold(event.hold),
            }
        case Recovered():
            found = {
                "leakguard.kind": event.kind,
                "leakguard.fingerprint": event.fingerprint,
                POOL_NAME: event.hold.pool,
                **_of_hold(event.hold),
            }
        case Exhausted():
            worst = event.holders[0] if event.holders else None
            found = {
                "leakguard.cause": event.cause,
                "leakguard.count": event.count,
                "leakguard.held": event.held,
                "leakguard.capacity": event.capacity,
                "leakguard.lost": event.lost,
                "leakguard.fingerprint": worst.fingerprint if worst is not None else None,
                POOL_NAME: event.pool,
            }
        case Summary():
            found = {
                f"leakguard.{key}": getattr(event, key)
                for key in ("acquired", "released", "held", "leaked", "internal_errors", "dropped_events")
            }
    found |= _place(site_of(event))
    return {key: value for key, value in found.items() if value is not None}


def _place(site: Site | None) -> dict[str, str | int | None]:
    if site is None:
        return {}
    return {"code.file.path": site.file, "code.line.number": site.line, "code.function.name": site.function}


def _of_hold(hold: Hold | None) -> dict[str, str | int | float | None]:
    if hold is None:
        return {}
    server = hold.server
    return {
        "leakguard.held_for": hold.held_for,
        "leakguard.library": hold.library,
        "leakguard.state": hold.state,
        "thread.name": hold.owner.thread,
        "leakguard.task": hold.owner.task,
        "db.query.text": hold.last_statement,
        "db.namespace": server.dbname if server is not None else None,
        "server.address": server.host if server is not None else None,
        "server.port": server.port if server is not None else None,
    }
