"""`examples/observability`, checked by the real promtool, and by a real Prometheus that scrapes a leaking service."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from leakguard.reporters.prometheus import sample_of
from leakguard.telling.metrics import DURATIONS, METRICS
from tests.reporters.support import ROOT

pytest.importorskip("prometheus_client")

EXAMPLE = ROOT / "examples" / "observability"
NEEDS = "needs {}, of Debian's package prometheus"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason=NEEDS.format("promtool"))
needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason=NEEDS.format("prometheus"))


def get(url: str, **query: str) -> str:
    """The body of an answer."""
    with urlopen(f"{url}?{urlencode(query)}" if query else url, timeout=10) as answer:
        return str(answer.read().decode())


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that other programs do: they are scraped and judged once a second."""
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_is_content(arguments: str) -> None:
    """With the configuration, and with what the alerts do in the cases written down beside them."""
    done = subprocess.run(
        ["promtool", *arguments.split()], cwd=EXAMPLE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> dict[str, str]:
    """What the panels of the dashboard ask, with the variables filled in as Grafana does."""
    dashboard = json.loads((EXAMPLE / "dashboard.json").read_text(encoding="utf-8"))
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$job", ".+").replace("$__rate_interval", "1m")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    """A metric that is renamed here is renamed there."""
    exist = {sample_of(metric) for metric in METRICS}
    for duration in DURATIONS:
        exist |= {f"{duration.name.replace('.', '_')}_seconds_{part}" for part in ("bucket", "count", "sum")}
    text = "\n".join(expressions().values()) + (EXAMPLE / "alerts.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\b(?:leakguard|db_client)_\w+", text))
    assert asked - exist == set()
    assert exist - asked <= {
        f"{duration.name.replace('.', '_')}_seconds_{part}" for duration in DURATIONS for part in ("count", "sum")
    }


class Started:
    """A program, and the address it can be reached at."""

    def __init__(self, url: str, ready: str, *command: str, **environment: str) -> None:
        self.url = url
        self._output = Path(environment.pop("LOG")).open("w+")
        self.process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=self._output, stderr=subprocess.STDOUT
        )

        def is_ready() -> bool:
            assert self.process.poll() is None, self.said()
            try:
                get(url + ready)
            except OSError:
                return False
            return True

        until(is_ready, f"{command[0]} at {url}")

    def said(self) -> str:
        self._output.flush()
        return Path(self._output.name).read_text()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._output.close()


@pytest.fixture
def service(dsn: str, tmp_path: Path) -> Iterator[Started]:
    """The example's service, by itself."""
    port = free_port()
    command = [sys.executable, str(EXAMPLE / "service.py"), str(port)]
    started = Started(
        f"http://127.0.0.1:{port}",
        "/orders",
        *command,
        DATABASE_URL=dsn,
        PYTHONPATH=str(ROOT),
        LOG=str(tmp_path / "service.log"),
    )
    yield started
    started.close()


@pytest.fixture
def prometheus(service: Started, tmp_path: Path) -> Iterator[Started]:
    """A Prometheus with the example's configuration, in a hurry."""
    config = (EXAMPLE / "prometheus.yml").read_text(encoding="utf-8")
    config = config.replace("127.0.0.1:8000", service.url.removeprefix("http://")).replace(" 15s", " 1s")
    (tmp_path / "prometheus.yml").write_text(config)
    shutil.copy(EXAMPLE / "alerts.yml", tmp_path)
    address = f"127.0.0.1:{free_port()}"
    started = Started(
        f"http://{address}",
        "/-/ready",
        "prometheus",
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
        LOG=str(tmp_path / "prometheus.log"),
    )
    yield started
    started.close()


def asked(prometheus: Started, expression: str) -> list[dict[str, Any]]:
    """The answer to a query, which must be a good one."""
    answer = json.loads(get(f"{prometheus.url}/api/v1/query", query=expression))
    assert answer["status"] == "success", (expression, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def scrapes(prometheus: Started) -> int:
    """How often the service has been scraped."""
    (found,) = asked(prometheus, 'count_over_time(up{job="shop"}[10m])')
    return int(found["value"][1])


@needs_prometheus
@pytest.mark.slow
def test_a_real_prometheus_fires_the_alert(service: Started, prometheus: Started) -> None:
    """It says which line leaks, and not before it does; every panel of the dashboard has something to show."""

    def firing() -> dict[str, dict[str, Any]]:
        alerts = json.loads(get(f"{prometheus.url}/api/v1/alerts"))["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    until(lambda: len(asked(prometheus, "leakguard_internal_errors_total")) == 1, "the first scrape")
    get(f"{service.url}/orders")
    scraped = scrapes(prometheus)
    until(lambda: scrapes(prometheus) >= scraped + 2, "two more scrapes: long enough for a false alarm")
    assert firing() == {}

    get(f"{service.url}/export")
    until(lambda: {"ConnectionLeak", "PoolSlotsLost"} <= set(firing()), "the alerts")
    leak = firing()["ConnectionLeak"]
    line = next(
        number for number, text in enumerate((EXAMPLE / "service.py").read_text().splitlines(), 1) if "# LEAK" in text
    )
    assert leak["labels"]["kind"] == "dropped"
    assert leak["annotations"]["summary"] == (
        f'{EXAMPLE / "service.py"}:{line} leaks connections of pool "shop" (dropped)'
    )
    assert leak["labels"]["fingerprint"] in service.said()
    for panel, expression in expressions().items():
        until(lambda expression=expression: bool(asked(prometheus, expression)), panel)  # type: ignore[misc]
    (bug,) = asked(prometheus, expressions()["Bugs A"])
    assert bug["metric"]["site"].endswith(f"service.py:{line}")
    assert bug["value"][1] == "1"
    assert set(firing()) == {"ConnectionLeak", "PoolSlotsLost"}
