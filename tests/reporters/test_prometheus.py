"""Prometheus: a collector that reads the register, files for several processes, and a port for who has no endpoint."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from psycopg_pool import ConnectionPool

import leakguard
from leakguard.reporters.prometheus import DIRECTORY, PrometheusReporter, name_of
from leakguard.reporters.value_files import Value, ValueFiles
from leakguard.telling.metrics import DURATIONS, METRICS
from tests.integrations.support import Lab, laboratory, steady, until
from tests.reporters.support import ROOT, run_program

pytest.importorskip("prometheus_client")
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """An exposition as a mapping from name and labels to value. No line may come twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def key(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The key of one line."""
    return name, tuple(sorted(labels.items()))


def scraped(registry: CollectorRegistry) -> Samples:
    """What a scrape of this registry tells."""
    return parsed(generate_latest(registry).decode())


@pytest.fixture
def registry() -> CollectorRegistry:
    """One of the test's own."""
    return CollectorRegistry()


# ------------------------------------------------------------------------------------------------------- one process


def test_the_metrics_come_from_the_register(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """At every scrape anew."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    with ConnectionPool(dsn, min_size=2, max_size=3, name="shop") as pool:
        steady(pool)
        with pool.connection():
            lab.moment += 90.0
            found = scraped(registry)
            assert found[key("db_client_connection_count", pool_name="shop", state="used")] == 1
            assert found[key("db_client_connection_count", pool_name="shop", state="idle")] == 1
            assert found[key("db_client_connection_max", pool_name="shop")] == 3
            assert found[key("leakguard_holds_oldest_seconds", pool="shop")] == 90.0
        pool.getconn()
        lab.collect()
        (leak,) = [leak for leak in lab.leaks if leak.kind == "dropped"]
        found = scraped(registry)
        assert found[key("leakguard_leaks_total", kind="dropped", pool="shop", fingerprint=leak.fingerprint)] == 1
        assert found[key("leakguard_slots_lost", pool="shop")] == 1
        assert found[key("leakguard_internal_errors_total")] == 0


def test_every_metric_has_its_help_and_type(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """Once each."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    text = generate_latest(registry).decode()
    helped = re.findall(r"^# HELP (\w+) .+\.$", text, re.MULTILINE)
    wanted = [f"{name_of(one)}_total" if one.kind == "counter" else name_of(one) for one in METRICS]
    assert helped == wanted + [f"{one.name.replace('.', '_')}_seconds" for one in DURATIONS]
    assert re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", text, re.MULTILINE) == helped


def test_durations_are_cumulative_histograms(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """Exact counts and sums; what falls on a bound belongs to its bucket."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    with ConnectionPool(dsn, min_size=1, name="shop") as pool:
        steady(pool)
        for seconds in (0.25, 0.5, 20.0, 1000.0):
            with pool.connection():
                lab.moment += seconds
        found = scraped(registry)
    name = "db_client_connection_use_time_seconds"
    told = {le: found[key(f"{name}_bucket", pool_name="shop", le=le)] for le in ("0.1", "0.5", "30.0", "300.0", "+Inf")}
    assert told == {"0.1": 0, "0.5": 2, "30.0": 3, "300.0": 3, "+Inf": 4}
    assert found[key(f"{name}_count", pool_name="shop")] == 4
    assert found[key(f"{name}_sum", pool_name="shop")] == 1020.75


def test_a_pool_that_is_gone_has_no_series(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """No line names it any more, but for the leaks that were found."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    with ConnectionPool(dsn, min_size=1, name="shop") as pool:
        steady(pool)
        with pool.connection():
            pass
        assert any("shop" in dict(labels).values() for _, labels in scraped(registry))
    del pool
    lab.collect()
    assert not any("shop" in dict(labels).values() for _, labels in scraped(registry))


def test_uninstalled_is_gone(registry: CollectorRegistry) -> None:
    """The collector leaves the registry with the last reporter, and comes back with the next."""
    for _ in range(2):
        with laboratory(on_leak=PrometheusReporter(registry=registry)):
            assert scraped(registry)
        assert not registry._collector_to_names
        assert generate_latest(registry) == b""


def test_two_guards_export_to_one_registry(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """No line comes twice; where pools share a name, there are sums. Errors of leakguard are the whole process's."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    with (
        ConnectionPool(dsn, min_size=1, max_size=4, name="same") as one,
        ConnectionPool(dsn, min_size=1, max_size=3, name="same") as other,
        leakguard.watch(other, on_leak=PrometheusReporter(registry=registry)),
    ):
        steady(one)
        steady(other)
        with one.connection(), other.connection():
            pass
        found = scraped(registry)
        assert found[key("db_client_connection_max", pool_name="same")] == 7
        assert found[key("db_client_connection_count", pool_name="same", state="idle")] == 2
        assert found[key("db_client_connection_use_time_seconds_count", pool_name="same")] == 2


def test_a_reporter_serves_one_guard(registry: CollectorRegistry, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    """The second guard is told, and exports nothing; the first goes on when the second ends."""
    reporter = PrometheusReporter(registry=registry)
    with laboratory(on_leak=reporter, errors=1) as lab:
        with ConnectionPool(dsn, min_size=0, max_size=4, name="shop", open=False) as pool:
            with leakguard.watch(pool, on_leak=reporter):
                assert "give each guard one of its own" in caplog.text
            assert lab.tracker.meter is not None
            assert scraped(registry)


def test_odd_names_are_escaped(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """A pool's name is the application's to choose."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    name = 'a "b"\\n\n{é}'
    with ConnectionPool(dsn, min_size=0, max_size=4, name=name, open=False):
        assert scraped(registry)[key("db_client_connection_max", pool_name=name)] == 4


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_promtool_finds_no_fault_with_an_exposition(lab: Lab, registry: CollectorRegistry, dsn: str) -> None:
    """Names, units and help texts are as Prometheus wants them."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter(registry=registry)])
    with ConnectionPool(dsn, min_size=1, name="shop") as pool:
        steady(pool)
        with pool.connection():
            pass
        pool.getconn()
        lab.collect()
        text = generate_latest(registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    # The conventions' name ends in "count", which is no histogram's here.
    faults = [line for line in done.stderr.decode().splitlines() if not line.startswith("db_client_connection_count ")]
    assert faults == []


# ----------------------------------------------------------------------------------------------------- many processes


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the multiprocess mode."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    return tmp_path


def told_by(directory: Path) -> Samples:
    """What any process of the service tells when it is scraped."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    return parsed(generate_latest(registry).decode())


def test_the_files_tell_what_a_scrape_would(
    lab: Lab, registry: CollectorRegistry, tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last line and label."""
    alone = PrometheusReporter(registry=registry)
    lab.guard.configure(on_leak=[lab.events.append, alone])
    assert alone._registry is not None
    together = PrometheusReporter()
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    together.attach(alone._registry)
    with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
        steady(pool)
        with pool.connection():
            lab.moment += 3.0
        pool.getconn()
        lab.collect()
        held = pool.getconn()
        lab.moment += 5.0
        lab.tracker.meter.beat()
        assert told_by(tmp_path) == scraped(registry)
        pool.putconn(held)
    together.close()


def test_what_is_gone_leaves_the_files(lab: Lab, directory: Path, dsn: str) -> None:
    """prometheus-client's own gauges would tell of it for ever."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter()])
    pool = ConnectionPool(dsn, min_size=0, max_size=4, name="shop", open=False)
    lab.tracker.meter.beat()
    assert told_by(directory)[key("db_client_connection_max", pool_name="shop")] == 4
    del pool
    lab.collect()
    lab.tracker.meter.beat()
    assert key("db_client_connection_max", pool_name="shop") not in told_by(directory)


def test_a_process_that_leaves_takes_its_gauges_along(directory: Path, dsn: str) -> None:
    """And leaves its counters: a sum that goes down would look like a restart."""
    with laboratory(on_leak=PrometheusReporter()) as lab:
        with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
            steady(pool)
            pool.getconn()
            lab.collect()
        lab.tracker.meter.beat()
        assert any(name == "db_client_connection_max" for name, _ in told_by(directory))
    left = told_by(directory)
    assert not any(name.startswith("db_client_connection_max") for name, _ in left)
    assert sum(value for (name, _), value in left.items() if name == "leakguard_leaks_total") == 1
    assert sorted(path.name.partition("_")[0] for path in directory.iterdir()) == ["counter", "histogram"]


def test_a_process_in_which_nothing_happens_writes_nothing(lab: Lab, directory: Path, dsn: str) -> None:
    """A disk is not kept busy by an idle service."""
    lab.guard.configure(on_leak=[lab.events.append, PrometheusReporter()])
    with ConnectionPool(dsn, min_size=0, max_size=4, name="shop", open=False):
        lab.tracker.meter.beat()
        before = {path.name: path.stat().st_ino for path in directory.iterdir()}
        lab.tracker.meter.beat()
        assert {path.name: path.stat().st_ino for path in directory.iterdir()} == before
        for path in directory.iterdir():
            path.unlink()
        lab.tracker.meter.beat()
        assert {path.name for path in directory.iterdir()} == set(before)


ONE_GAUGE = Value(kind="gauge_livesum", name="held", text="Help.", sample="held", labels={"pool": "shop"}, value=3.0)
ONE_COUNT = Value(kind="counter", name="leaks", text="Help.", sample="leaks_total", labels={"pool": "shop"}, value=2.0)

WRITER = """
import os, sys, time
from pathlib import Path
from tests.reporters.test_prometheus import ONE_COUNT, ONE_GAUGE
from leakguard.reporters.value_files import ValueFiles

files = ValueFiles(Path(sys.argv[1]))
files.write([ONE_GAUGE, ONE_COUNT])
read, write = os.pipe()
if os.fork() == 0:  # a child of the worker's lives on: it must not keep the lock
    files.forget()
    os.write(write, b".")
    time.sleep(3)
    os._exit(0)
os.read(read, 1)
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_the_gauges_of_a_dead_process_are_removed_by_the_living(tmp_path: Path) -> None:
    """Killed, or ended without a word; nobody has to call ``mark_process_dead()``. Its counters stay."""
    mine = ValueFiles(tmp_path)
    mine.write([ONE_GAUGE, ONE_COUNT])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == b"written\n"
    mine.prune()
    assert told_by(tmp_path) == {key("held", pool="shop"): 6, key("leaks_total", pool="shop"): 4}
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    mine.prune()
    assert told_by(tmp_path) == {key("held", pool="shop"): 3, key("leaks_total", pool="shop"): 4}
    mine.forget()
    writer.stdin.close()
    writer.stdout.close()


def test_a_file_is_locked_at_every_moment_of_its_process(tmp_path: Path) -> None:
    """Also while it is being replaced: no other process may take it for abandoned."""
    from leakguard.reporters.value_files import _is_abandoned

    files = ValueFiles(tmp_path)
    for number in range(3):
        files.write([Value(**{**{name: getattr(ONE_GAUGE, name) for name in ONE_GAUGE.__slots__}, "value": number})])
        (path,) = tmp_path.glob("gauge*")
        assert not _is_abandoned(path)
    files.forget()
    assert _is_abandoned(path)
    assert not _is_abandoned(tmp_path / "absent.db")


def test_another_format_is_refused_not_left_lying_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prometheus-client that could not read our files would fail at every scrape of the application's own metrics."""
    monkeypatch.setattr("leakguard.reporters.value_files.encode", lambda entries: b"\x10\0\0\0\0\0\0\0garbage!")
    with pytest.raises(ValueError, match="another format"):
        ValueFiles(tmp_path).write([ONE_COUNT])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_said_once_and_the_application_goes_on(tmp_path: Path, dsn: str) -> None:
    """prometheus-client's own way of writing would end the process with SIGBUS. Room again: the files are written."""
    done = run_program(
        """
        import logging, os, resource, sys
        import leakguard, leakguard.runtime
        from leakguard.reporters.prometheus import PrometheusReporter
        from psycopg_pool import ConnectionPool

        leakguard.install(on_leak=PrometheusReporter())
        beat = leakguard.runtime.current().tracker.meter.beat
        with ConnectionPool(sys.argv[1], min_size=1, max_size=2, name="shop") as pool:
            pool.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))  # no file may be longer
            for _ in range(3):
                beat()
            with pool.connection():
                pass
            assert os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]) == []
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            beat()
            assert len(os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"])) == 4
        """,
        dsn,
        PROMETHEUS_MULTIPROC_DIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"leakguard: cannot write metrics to \S+: .+; trying again every second", line)


def test_a_directory_that_is_not_there_is_said_once(
    tmp_path: Path, dsn: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be made later."""
    monkeypatch.setenv(DIRECTORY, str(tmp_path / "later"))
    with laboratory(on_leak=PrometheusReporter()) as lab:
        lab.tracker.meter.beat()
        lab.tracker.meter.beat()
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        (tmp_path / "later").mkdir()
        lab.tracker.meter.beat()
        assert told_by(tmp_path / "later")
    assert len(caplog.records) == 1


# ----------------------------------------------------------------------------------------------------- gunicorn


class Gunicorn:
    """The example's service under gunicorn, and what its workers answer."""

    def __init__(self, dsn: str, directory: Path, *options: str, workers: int = 3) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        arguments = ["--workers", str(workers), "--bind", self.address, "--chdir", "examples/observability"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", *arguments, *options, "service:app"],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "DATABASE_URL": dsn,
                DIRECTORY: str(directory),
                "HOME": str(directory),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def get(self, path: str) -> tuple[int, str]:
        """The answer to one request, and the process id of the worker that gave it."""
        with urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return int(answer.headers["X-Worker"]), answer.read().decode()

    def get_from(self, worker: int, path: str) -> str:
        """The answer of this very worker."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found, text = self.get(path)
            if found == worker:
                return text
        raise AssertionError(f"worker {worker} never answered")

    def wait(self, workers: int = 3) -> set[int]:
        """Until so many workers answer; their process ids."""
        found: set[int] = set()

        def all_there() -> bool:
            try:
                found.add(self.get("/orders")[0])
            except OSError:
                assert self.process.poll() is None, self.process.communicate()
            return len(found) == workers

        until(all_there, "gunicorn's workers")
        return found

    def close(self) -> str:
        """End it; what it has said."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[0]


@pytest.fixture
def gunicorn(dsn: str, tmp_path: Path) -> Iterator[Any]:
    """Starts gunicorn, and ends it."""
    pytest.importorskip("gunicorn")
    started: list[Gunicorn] = []

    def start(*options: str) -> Gunicorn:
        started.append(Gunicorn(dsn, tmp_path, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.close()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preload"])
def test_any_worker_of_gunicorn_tells_of_all(gunicorn: Any, options: tuple[str, ...]) -> None:
    """The leak is in one of three, the sums are those of all, and a worker that is killed is not counted on."""
    service = gunicorn(*options)
    workers = service.wait()
    leaking, _ = service.get("/export")
    asked, killed = sorted(workers - {leaking})

    def told(worker: int, name: str, **labels: str) -> float:
        found = parsed(service.get_from(worker, "/metrics"))
        return sum(
            value for (line, others), value in found.items() if line == name and labels.items() <= dict(others).items()
        )

    def capacity(worker: int) -> float:
        return told(worker, "db_client_connection_max", pool_name="shop")

    until(lambda: told(asked, "leakguard_leaks_total", kind="dropped") == 1, "the leak")
    until(lambda: capacity(asked) == 15, "the files of all workers")
    for worker in workers:
        assert told(worker, "leakguard_leaks_total") == told(worker, "leakguard_slots_lost") == 1
        assert capacity(worker) == 15
    used = told(asked, "db_client_connection_use_time_seconds_count")
    assert used >= 3
    os.kill(killed, signal.SIGKILL)
    until(lambda: capacity(asked) == 10, "the end of the killed worker's gauges")
    assert told(asked, "leakguard_leaks_total") == 1
    assert told(asked, "db_client_connection_use_time_seconds_count") >= used
    assert told(asked, "leakguard_internal_errors_total") == 0
    said = service.close()
    assert said.count("LEAK dropped connection") == 1
    assert "internal error" not in said


# ------------------------------------------------------------------------------------------------------------ a port


@pytest.mark.slow
def test_a_port_serves_who_has_no_endpoint(lab: Lab, registry: CollectorRegistry) -> None:
    """On the loopback interface, unless told otherwise; and no longer than leakguard is installed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    lab.guard.configure(on_leak=PrometheusReporter(registry=registry, port=port))
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert key("leakguard_internal_errors_total") in parsed(answer.read().decode())
    lab.guard.configure(on_leak=lab.events.append)
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.slow
def test_a_port_that_is_taken_is_said_once_and_tried_again(
    lab: Lab, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A deployment that starts the new process before the old one has ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        lab.guard.configure(on_leak=PrometheusReporter(registry=registry, port=port))
        lab.tracker.meter.beat()
        (record,) = caplog.records
        assert record.getMessage() == (
            f"leakguard: cannot serve metrics at 127.0.0.1:{port}: Address already in use; trying again every second"
        )
    lab.tracker.meter.beat()
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.status == 200
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_a_scrape_at_the_end_of_the_process_prints_nothing(dsn: str) -> None:
    """The thread that answers cannot be started by then. A daemon thread that prints may abort the process."""
    done = run_program(
        """
        import socket, socketserver
        import leakguard

        refused = []

        def process_request(self, request, client_address):
            refused.append(request)
            raise RuntimeError("can't create new thread at interpreter shutdown")

        socketserver.ThreadingMixIn.process_request = process_request
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        leakguard.install(export=f"prometheus:{port}", on_leak=lambda event: None)
        with socket.create_connection(("127.0.0.1", port)) as link:
            assert link.recv(1) == b""
        print("hung up on", len(refused))
        """,
        dsn,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hung up on 1\n", "")


@pytest.mark.slow
def test_a_forked_child_lets_go_of_the_port(dsn: str) -> None:
    """Else it would keep the port from whoever comes after its parent."""
    done = run_program(
        """
        import os, socket, sys, time
        import leakguard, leakguard.runtime

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        leakguard.install(export=f"prometheus:{port}", on_leak=lambda event: None)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent is about to be gone
            deadline = time.monotonic() + 10
            while True:
                leakguard.runtime.current().tracker.meter.beat()
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    assert time.monotonic() < deadline
            print("the child serves")
            sys.stdout.flush()
            os._exit(0)
        socket.create_connection(("127.0.0.1", port)).close()
        print("the parent serves", flush=True)
        """,
        dsn,
    )
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["the parent serves", "the child serves"]
    assert "Traceback" not in done.stderr
