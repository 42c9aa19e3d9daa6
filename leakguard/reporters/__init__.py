"""Reporters: each tells events in one form. A reporter has ``report(event)``; nothing else is asked of it.

``text`` writes for people, ``log`` into the `logging` that the application already has, ``jsonl`` for programs.
``otel``, ``prometheus`` and ``sentry`` export to what a company already runs. They have two more methods, called by the
guard that they serve: ``attach(registry)``, with a `leakguard.telling.registry.Registry`, and ``close()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from leakguard.settings import Reporter


def check(names: Iterable[str]) -> None:
    """Raise SettingsError where the package of one of these exporters is missing."""
    for name in names:
        exporter(name)


def exporter(name: str) -> Reporter:
    """The exporter that the setting ``export`` calls `name`. Raises SettingsError where its package is missing."""
    kind, _, address = name.partition(":")
    match kind:
        case "otel":
            from leakguard.reporters.otel import OpenTelemetryReporter

            return OpenTelemetryReporter()
        case "prometheus":
            from leakguard.reporters.prometheus import PrometheusReporter

            host, _, port = address.rpartition(":")
            return PrometheusReporter(port=int(port) if port else None, address=host or "127.0.0.1")
        case _:
            from leakguard.reporters.sentry import SentryReporter

            return SentryReporter()
