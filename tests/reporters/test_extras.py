"""The setting ``export``: what it accepts, what it brings, and what it says where a package is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import leakguard
from leakguard.settings import EXPORTERS, resolve
from tests.integrations.support import laboratory
from tests.reporters.support import ROOT, run_program

PACKAGES = {"otel": "opentelemetry", "prometheus": "prometheus_client", "sentry": "sentry_sdk"}

HIDING = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hide())
"""


def test_every_exporter_is_an_extra_of_the_package() -> None:
    """So that what the error says can be installed."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXPORTERS) <= set(project["optional-dependencies"])
    assert set(EXPORTERS) == set(PACKAGES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTERS)
def test_a_missing_package_is_told_with_the_extra_that_has_it(name: str) -> None:
    """In one line, before anything is patched."""
    program = (
        HIDING.format(package=PACKAGES[name])
        + f"""
import leakguard, leakguard.runtime
try:
    leakguard.install(export={name!r})
except leakguard.SettingsError as error:
    print(error)
assert not leakguard.runtime.current().guards
guard = leakguard.install()
try:
    guard.configure(export={name!r})
except leakguard.SettingsError as error:
    print(error)
assert guard.settings.export == ()
"""
    )
    done = run_program(program)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith(f"leakguard: the exporter {name!r} needs a package that is not installed (No module named ")
    assert first.endswith(f": pip install 'leakguard[{name}]'")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTERS)
def test_run_says_so_before_the_command_starts(name: str, tmp_path: Path) -> None:
    """Exit status 2, one line."""
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(package=PACKAGES[name]))
    done = subprocess.run(
        [sys.executable, "-m", "leakguard", "run", "--", sys.executable, "-c", "print('never reached')"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "LEAKGUARD_EXPORT": name},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(f"pip install 'leakguard[{name}]'")


@pytest.mark.slow
def test_what_is_not_used_is_not_imported() -> None:
    """Least of all the SDKs, which take longer than all of leakguard."""
    done = run_program(
        """
        import sys
        import leakguard
        leakguard.install()
        packages = ("opentelemetry", "prometheus_client", "sentry_sdk", "structlog")
        print(*[name for name in packages if name in sys.modules])
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("otel", ("otel",)),
        (" Otel ", ("otel",)),
        (["otel", "sentry", "otel"], ("otel", "sentry")),
        ("prometheus:9464", ("prometheus:9464",)),
        ("prometheus:0.0.0.0:9464", ("prometheus:0.0.0.0:9464",)),
        ([], ()),
        (None, ()),
    ],
)
def test_what_is_accepted(value: object, expected: tuple[str, ...], tmp_path: Path) -> None:
    """Names, and for Prometheus a port or an address with a port."""
    assert resolve({"export": value}, environ={}, directory=tmp_path).export == expected


@pytest.mark.parametrize(
    "value",
    ["statsd", "", "otel:4317", "prometheus:", "prometheus:x", "prometheus:0", "prometheus:65536", 9464, {"otel"}],
    ids=str,
)
def test_what_is_not_accepted(value: object, tmp_path: Path) -> None:
    """Is told with its source, and with what is."""
    with pytest.raises(leakguard.SettingsError) as raised:
        resolve({"export": value}, environ={}, directory=tmp_path)
    text = str(raised.value)
    assert text.startswith("leakguard: export=")
    assert '(keyword) is not accepted: "otel", "prometheus"' in text
    assert "\n" not in text


def test_the_environment_names_several(tmp_path: Path) -> None:
    """Separated by commas."""
    environ = {"LEAKGUARD_EXPORT": "otel, prometheus:9464,sentry"}
    assert resolve({}, environ=environ, directory=tmp_path).export == ("otel", "prometheus:9464", "sentry")


def test_who_gives_an_exporter_gets_no_second_one_of_its_kind() -> None:
    """An application that exports by itself works under ``leakguard run`` with the environment set."""
    pytest.importorskip("prometheus_client")
    from prometheus_client import CollectorRegistry

    from leakguard.reporters.prometheus import PrometheusReporter

    registry = CollectorRegistry()
    with laboratory(export="prometheus", on_leak=PrometheusReporter(registry=registry)) as lab:
        assert len(lab.tracker.meter._subscribers) == 1
        assert len(registry._collector_to_names) == 1
        lab.guard.configure(on_leak=lab.events.append)
        assert len(lab.tracker.meter._subscribers) == 1
        assert not registry._collector_to_names
