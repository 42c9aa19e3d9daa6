"""Prometheus: a collector for prometheus-client, which reads the register when it is scraped.

Where ``PROMETHEUS_MULTIPROC_DIR`` is set (gunicorn), nobody is asked at that moment: there every process leaves its
values in files, once a second, and whichever of them is scraped tells the values of all.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leakguard.model import Event
from leakguard.process.native import Lock
from leakguard.reporters.shared import Trouble, must_be_free, needs
from leakguard.reporters.value_files import FileKind, Value, ValueFiles
from leakguard.telling.durations import Duration
from leakguard.telling.metrics import BUCKETS, DURATIONS, METRICS, Labels, Metric, read_all
from leakguard.telling.registry import Readings, Registry

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")
_FILES: Final[dict[str, FileKind]] = {
    "counter": "counter",
    "updowncounter": "gauge_livesum",
    "gauge": "gauge_livemax",
}


class PrometheusReporter:
    """Exports to Prometheus. Raises SettingsError where the package prometheus-client is not installed.

    The metrics are put into `registry`, by default prometheus-client's own, and so come out of whatever endpoint the
    application has. With a `port` they are served there as well. Thread-safe.
    """

    def __init__(
        self, *, registry: CollectorRegistry | None = None, port: int | None = None, address: str = "127.0.0.1"
    ) -> None:
        with needs("prometheus"):
            from prometheus_client import REGISTRY
        self._into = REGISTRY if registry is None else registry
        self._endpoint = None if port is None else _Endpoint(self._into, address, port)
        self._outlet: _Outlet | None = None
        self._registry: Registry | None = None
        self.histograms = Histograms()

    def attach(self, registry: Registry) -> None:
        """Export this guard's metrics from now on."""
        must_be_free(self._registry)
        self._registry = registry
        self._outlet = _outlet_for(self._into)
        self._outlet.reporters.append(self)
        registry.subscribe(self)
        if self._endpoint is not None:
            self._endpoint.open()

    def close(self) -> None:
        """Export its metrics no more."""
        if self._registry is not None and self._outlet is not None:
            self._registry.unsubscribe(self)
            self._outlet.leave(self)
            self._registry = self._outlet = None
        if self._endpoint is not None:
            self._endpoint.close()

    def report(self, event: Event) -> None:
        """Nothing: what there is to count is read when it is asked for."""

    def observe(self, duration: Duration, pool: str, seconds: float) -> None:
        """Add a duration to its histogram."""
        self.histograms.add(duration, pool, seconds)

    def beat(self, *, last: bool) -> None:
        """See to the files, and to a port that was taken."""
        if self._outlet is not None and self._outlet.reporters[0] is self:
            self._outlet.beat(last=last)
        if self._endpoint is not None:
            self._endpoint.open()

    def forget(self) -> None:
        """In a forked child: the durations, the files and the server are the parent's."""
        self.histograms = Histograms()
        if self._outlet is not None:
            self._outlet.forget()
        if self._endpoint is not None:
            self._endpoint.forget()

    def read(self) -> Readings:
        """The register of the guard, with all durations handed on, and those of pools that are gone forgotten."""
        assert self._registry is not None
        self._registry.flush()
        readings = self._registry.read()
        self.histograms.keep({pool.name for pool in readings.pools})
        return readings


# -------------------------------------------------------------------------------------------------------- the durations


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many durations fell into each bucket, the last of which has no bound, and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS) + 1)
    total: float = 0.0

    def __add__(self, other: Histogram) -> Histogram:
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Histogram(counts=counts, total=self.total + other.total)


class Histograms:
    """The durations of one guard's pools. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: dict[tuple[Duration, str], tuple[list[int], list[float]]] = {}

    def add(self, duration: Duration, pool: str, seconds: float) -> None:
        """One more."""
        key = (duration, pool)
        with self._lock:
            if key not in self._found:
                self._found[key] = [0] * len(_BOUNDS), [0.0]
            counts, total = self._found[key]
            counts[bisect_left(BUCKETS, seconds)] += 1
            total[0] += seconds

    def keep(self, pools: set[str]) -> None:
        """Forget all other pools."""
        with self._lock:
            for key in [key for key in self._found if key[1] not in pools]:
                del self._found[key]

    def of(self, duration: Duration) -> dict[str, Histogram]:
        """By pool, as they are now."""
        with self._lock:
            return {
                pool: Histogram(counts=tuple(counts), total=total[0])
                for (found, pool), (counts, total) in self._found.items()
                if found == duration
            }


# ------------------------------------------------------------------------------------------------------------ the names


def name_of(metric: Metric) -> str:
    """The metric's name in Prometheus, without the ``_total`` of a counter."""
    return metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")


def sample_of(metric: Metric) -> str:
    """What its lines begin with."""
    return f"{name_of(metric)}_total" if metric.kind == "counter" else name_of(metric)


def labels_of(metric: Metric, labels: Labels) -> dict[str, str]:
    """Its labels, those of the conventions for database clients by the conventions' names."""
    return {"pool_name" if key == "pool" and metric.name.startswith("db.") else key: value for key, value in labels}


def _histograms(reporters: Iterable[PrometheusReporter]) -> Iterator[tuple[str, str, dict[str, Histogram]]]:
    """Name, text, and the histograms by pool."""
    for metric in DURATIONS:
        found: dict[str, Histogram] = {}
        for reporter in reporters:
            for pool, histogram in reporter.histograms.of(metric.duration).items():
                found[pool] = found.get(pool, Histogram()) + histogram
        yield f"{metric.name.replace('.', '_')}_seconds", metric.description, found


# ------------------------------------------------------------------------------------------------------------- the ways


class _Collector:
    """What prometheus-client asks when it is scraped; one for each of its registries, which take no name twice."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reporters: list[PrometheusReporter] = []
        self._registry = registry
        registry.register(self)

    def describe(self) -> list[Family]:
        """Nothing, so that to register it asks for nothing."""
        return []

    def collect(self) -> Iterator[Family]:
        """The metrics, now."""
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.core import Metric as Family

        reporters = list(self.reporters)
        readings = [reporter.read() for reporter in reporters]
        for metric in METRICS:
            family = Family(name_of(metric), metric.description, "counter" if metric.kind == "counter" else "gauge")
            for labels, value in read_all(metric, readings).items():
                family.add_sample(sample_of(metric), labels_of(metric, labels), value)
            yield family
        for name, text, found in _histograms(reporters):
            histograms = HistogramMetricFamily(name, text, labels=["pool_name"])
            for pool, histogram in found.items():
                buckets = zip(_BOUNDS, itertools.accumulate(histogram.counts), strict=True)
                histograms.add_metric([pool], list(buckets), histogram.total)
            yield histograms

    def leave(self, reporter: PrometheusReporter) -> None:
        """A reporter exports no more; the last one takes the collector along."""
        self.reporters.remove(reporter)
        if not self.reporters:
            self._registry.unregister(self)
            _outlets.remove((self._registry, self))

    def beat(self, *, last: bool) -> None:
        """Nothing: whoever wants to know asks."""

    def forget(self) -> None:
        """Nothing is kept here."""


class _Directory:
    """The directory of prometheus-client's multiprocess mode."""

    def __init__(self, path: str) -> None:
        self.reporters: list[PrometheusReporter] = []
        self._path = path
        self._files = ValueFiles(Path(path))
        self._trouble = Trouble()

    def beat(self, *, last: bool) -> None:
        """Write the files. A full disk is told once, and tried again a second later."""
        try:
            self._files.write(self._values())
            self._files.prune()
            if last:
                self._files.leave()
            self._trouble.over()
        except OSError as error:
            self._trouble.say(f"cannot write metrics to {self._path}: {error.strerror}; trying again every second")
        except ValueError as error:
            self._trouble.say(f"no metrics are written to {self._path}: {error}")

    def leave(self, reporter: PrometheusReporter) -> None:
        """A reporter exports no more; the last one takes along what is not counted."""
        if self.reporters == [reporter]:
            self.beat(last=True)
            _outlets.remove((self._path, self))
        self.reporters.remove(reporter)

    def forget(self) -> None:
        """The files are the parent's."""
        self._files.forget()

    def _values(self) -> Iterator[Value]:
        reporters = list(self.reporters)
        readings = [reporter.read() for reporter in reporters]
        for metric in METRICS:
            for labels, value in read_all(metric, readings).items():
                yield Value(
                    kind=_FILES[metric.kind],
                    name=name_of(metric),
                    text=metric.description,
                    sample=sample_of(metric),
                    labels=labels_of(metric, labels),
                    value=value,
                )
        for name, text, found in _histograms(reporters):
            for pool, histogram in found.items():
                lines = [(f"{name}_sum", {"pool_name": pool}, histogram.total)]
                for bound, count in zip(_BOUNDS, histogram.counts, strict=True):
                    lines.append((f"{name}_bucket", {"pool_name": pool, "le": bound}, count))
                for sample, named, value in lines:
                    yield Value(kind="histogram", name=name, text=text, sample=sample, labels=named, value=value)


_Outlet = _Collector | _Directory
_outlets: list[tuple[object, _Outlet]] = []
"""Where metrics come out now, by prometheus registry or directory."""


def _outlet_for(registry: CollectorRegistry) -> _Outlet:
    directory = os.environ.get(DIRECTORY)
    place = directory or registry
    for known, outlet in _outlets:
        if known is place or (directory and known == directory):
            return outlet
    made = _Directory(directory) if directory else _Collector(registry)
    _outlets.append((place, made))
    return made


class _Endpoint:
    """The port at which an application that has no endpoint of its own is scraped."""

    def __init__(self, registry: CollectorRegistry, address: str, port: int) -> None:
        self._registry = registry
        self._address = address
        self._port = port
        self._server: WSGIServer | None = None
        self._trouble = Trouble()

    def open(self) -> None:
        """Serve, unless that is being done. A port that is taken is told once, and tried again a second later."""
        if self._server is not None:
            return
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.multiprocess import MultiProcessCollector

        shared = DIRECTORY in os.environ
        try:
            registry = self._registry
            if shared:
                registry = CollectorRegistry()
                MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            server = start_http_server(self._port, self._address, registry)[0]
            # A scrape that comes when the interpreter ends finds that no thread can be started any more. To print that,
            # in a daemon thread, may hold the lock of sys.stderr for ever, and Python then ends with SIGABRT.
            server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
            self._server = server
            self._trouble.over()
        except ValueError:  # the directory is not there yet
            return
        except OSError as error:
            if not shared:  # else another process has it, and tells the values of all
                where = f"{self._address}:{self._port}"
                self._trouble.say(f"cannot serve metrics at {where}: {error.strerror}; trying again every second")

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def forget(self) -> None:
        """In a forked child: the parent goes on serving, and this is not to hold its port."""
        if self._server is not None:
            self._server.socket.close()
            self._server = None
