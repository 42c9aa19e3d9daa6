"""structlog renders leakguard's log records with their fields: they go through the standard `logging`."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from leakguard.reporters.log import LogReporter
from tests.factories import FILE, FINGERPRINT, make_leak

structlog = pytest.importorskip("structlog")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What a handler with structlog's formatter writes, set up as structlog's documentation tells."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logger = logging.getLogger("leakguard")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def test_the_fields_are_keys(stream: io.StringIO) -> None:
    """`ExtraAdder` takes whatever stands on a record besides what logging puts there."""
    LogReporter().report(make_leak())
    line = json.loads(stream.getvalue())
    assert line["level"] == "error"
    assert line["event"].startswith("LEAK dropped connection")
    assert line["leakguard_kind"] == "dropped"
    assert line["leakguard_fingerprint"] == FINGERPRINT
    assert line["leakguard_site"] == f"{FILE}:88"
    assert line["leakguard_count"] == 3
    assert line["leakguard_event"]["hold"]["owner"]["thread"] == "worker-3"
