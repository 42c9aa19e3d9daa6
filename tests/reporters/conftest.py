"""Fixtures for the tests of the exporters."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from leakguard.telling import durations
from tests.integrations.support import Lab, laboratory
from tests.reporters.support import Gauge


@pytest.fixture(autouse=True)
def exporters_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the exporters comes by once an hour: a test that wants it to beat calls `beat()`."""
    monkeypatch.setattr(durations, "EVERY", 3600.0)


@pytest.fixture
def gauge(lab: Lab) -> Gauge:
    """Reads the register of the lab's guard."""
    return Gauge(lab)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """leakguard, installed with its default settings and a clock of its own."""
    gc.collect()
    gc.freeze()  # the tests collect often: what was there before need not be looked at each time
    try:
        with laboratory() as laboratory_:
            yield laboratory_
    finally:
        gc.unfreeze()
        gc.collect()
