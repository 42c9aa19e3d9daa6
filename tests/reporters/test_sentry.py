"""Sentry, by its real SDK with a transport that keeps what would be sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg_pool import ConnectionPool

from leakguard.model import Trace
from leakguard.reporters import sentry
from leakguard.reporters.sentry import SentryReporter
from tests.factories import FILE, FINGERPRINT, make_exhausted, make_hold, make_leak, make_recovered, make_summary
from tests.integrations.support import laboratory, steady

sentry_sdk = pytest.importorskip("sentry_sdk")

DSN = "https://key@sentry.invalid/1"


class Transport(sentry_sdk.transport.Transport):
    """Keeps the events."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events += [event for item in envelope.items if (event := item.get_event()) is not None]


@pytest.fixture
def transport() -> Transport:
    """What would be sent."""
    return Transport()


@pytest.fixture
def reporter(transport: Transport) -> Iterator[SentryReporter]:
    """A reporter with a client of its own."""
    client = sentry_sdk.Client(
        dsn=DSN, transport=transport, default_integrations=False, auto_enabling_integrations=False
    )
    yield SentryReporter(client=client)
    client.close()


@pytest.fixture
def initialised(transport: Transport) -> Iterator[None]:
    """Sentry as an application initialises it, with its logging integration."""
    sentry_sdk.init(dsn=DSN, transport=transport, auto_enabling_integrations=False)
    yield
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


def test_a_leak_is_an_issue_of_its_fingerprint(reporter: SentryReporter, transport: Transport) -> None:
    """With the reason, the acquiring stack outermost first, and the whole event."""
    leak = make_leak()
    reporter.report(leak)
    (event,) = transport.events
    assert event["fingerprint"] == ["leakguard", FINGERPRINT]
    assert event["level"] == "error"
    assert event["tags"] == {
        "leakguard.kind": "dropped",
        "leakguard.fingerprint": FINGERPRINT,
        "leakguard.pool": leak.pool.name if leak.pool is not None else None,
    }
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "ConnectionLeak (dropped)"
    assert exception["value"].startswith(leak.reason)
    frames = exception["stacktrace"]["frames"]
    assert leak.hold is not None
    assert [(frame["abs_path"], frame["lineno"]) for frame in frames] == [
        (frame.file, frame.line) for frame in reversed(leak.hold.stack)
    ]
    assert [frame["in_app"] for frame in frames] == [True, False, True, True, False]
    (site,) = [frame for frame in frames if "context_line" in frame]
    assert (site["abs_path"], site["lineno"], site["context_line"]) == (FILE, 88, "conn = pool.getconn()")
    assert event["contexts"]["leakguard"]["count"] == leak.count
    assert datetime.fromisoformat(str(event["timestamp"]).replace("Z", "+00:00")).replace(tzinfo=UTC) == leak.time


def test_every_kind_of_a_bug_is_the_same_issue(reporter: SentryReporter, transport: Transport) -> None:
    """Suspicion, then proof: one bug, and each is sent."""
    reporter.report(make_leak(kind="overdue", certain=False, count=1))
    reporter.report(make_leak(kind="dropped", count=1))
    assert [event["level"] for event in transport.events] == ["warning", "error"]
    assert transport.events[0]["fingerprint"] == transport.events[1]["fingerprint"]


def test_a_leak_in_a_loop_does_not_use_up_the_quota(reporter: SentryReporter, transport: Transport) -> None:
    """It is sent again when the count has doubled."""
    for count in range(1, 101):
        reporter.report(make_leak(count=count))
    assert [event["contexts"]["leakguard"]["count"] for event in transport.events] == [1, 2, 4, 8, 16, 32, 64]


def test_a_forked_child_tells_of_its_own(reporter: SentryReporter, transport: Transport) -> None:
    """Its count begins at one again."""
    for count in (1, 2, 4, 1):
        reporter.report(make_leak(count=count))
    assert len(transport.events) == 4


def test_what_is_remembered_has_a_limit(
    reporter: SentryReporter, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it, everything is sent."""
    monkeypatch.setattr(sentry, "BUGS_LIMIT", 3)
    for count in (5, 6):
        for number in range(4):
            reporter.report(make_leak(fingerprint=f"{number:012x}", count=count))
    assert [event["fingerprint"][1][-1] for event in transport.events] == ["0", "1", "2", "3", "3"]


def test_an_exhausted_pool_is_an_issue_and_its_end_is_none(reporter: SentryReporter, transport: Transport) -> None:
    """What recovers, and a summary, is for other places."""
    for event in (make_exhausted(), make_recovered(), make_summary()):
        reporter.report(event)
    (told,) = transport.events
    assert told["fingerprint"][:3] == ["leakguard", "exhausted", "pool"]
    (frame,) = told["exception"]["values"][0]["stacktrace"]["frames"]
    assert frame["abs_path"] == FILE


def test_a_leak_without_a_hold_has_its_site_alone(reporter: SentryReporter, transport: Transport) -> None:
    """And one without a site has no frame at all."""
    reporter.report(make_leak(kind="unclosed_pool", hold=None))
    reporter.report(make_leak(kind="lost_slot", hold=None, site=None, pool=None))
    frames = [event["exception"]["values"][0]["stacktrace"]["frames"] for event in transport.events]
    assert [len(some) for some in frames] == [1, 0]


def test_the_span_that_acquired_is_linked(reporter: SentryReporter, transport: Transport) -> None:
    """Where one was current."""
    trace = Trace(trace_id="0" * 31 + "7", span_id="0" * 15 + "9")
    reporter.report(make_leak(hold=make_hold(trace=trace)))
    found = transport.events[0]["contexts"]["trace"]
    assert (found["trace_id"], found["span_id"]) == (trace.trace_id, trace.span_id)


@pytest.mark.usefixtures("initialised")
def test_a_real_leak_makes_one_issue_not_two(transport: Transport, dsn: str) -> None:
    """Though it is logged as well, and Sentry listens to the log. The request that happens to run is not in it."""
    with sentry_sdk.isolation_scope() as request:
        request.set_tag("request", "r-17")
        with laboratory(on_leak=["log", SentryReporter()]) as lab:
            with ConnectionPool(dsn, min_size=1, max_size=2, name="shop") as pool:
                steady(pool)
                pool.getconn()
                lab.collect()
        (event,) = transport.events
        assert event["exception"]["values"][0]["type"] == "ConnectionLeak (dropped)"
        assert "request" not in event["tags"]
        logging.getLogger("leakguard").error("uninstalled: logged as ever")
        assert len(transport.events) == 2


def test_without_an_initialised_sentry_nothing_happens() -> None:
    """The application may initialise it later, or never."""
    SentryReporter().report(make_leak())
