"""The logging form: one record an event, text for people and attributes for pipelines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from leakguard.model import Event
from leakguard.prose.events import render_event
from leakguard.reporters.log import LogReporter
from tests.factories import (
    FILE,
    FINGERPRINT,
    make_exhausted,
    make_hold,
    make_leak,
    make_recovered,
    make_summary,
)


class Keeper(logging.Handler):
    """Keeps the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the tests' own, with a handler that keeps the records."""
    logger = logging.getLogger("leakguard.tests")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    keeper = Keeper()
    logger.addHandler(keeper)
    yield logger
    logger.removeHandler(keeper)
    logger.filters.clear()
    logger.disabled = False


def records_of(logger: logging.Logger) -> list[logging.LogRecord]:
    """What the logger's handler has kept."""
    (keeper,) = (handler for handler in logger.handlers if isinstance(handler, Keeper))  # pytest adds its own
    return keeper.records


@pytest.mark.parametrize(
    ("event", "level"),
    [
        pytest.param(make_leak(), logging.ERROR, id="proven"),
        pytest.param(make_leak(kind="overdue", certain=False), logging.WARNING, id="suspected"),
        pytest.param(make_leak(kind="nested_acquire", certain=False), logging.WARNING, id="advice"),
        pytest.param(make_exhausted(), logging.ERROR, id="exhausted"),
        pytest.param(make_recovered(), logging.INFO, id="recovered"),
        pytest.param(make_summary(), logging.INFO, id="summary"),
    ],
)
def test_the_level_says_how_bad_it_is(logger: logging.Logger, event: Event, level: int) -> None:
    """One record an event, with the text block as its message."""
    LogReporter(logger).report(event)
    (record,) = records_of(logger)
    assert record.levelno == level
    assert record.getMessage() == render_event(event)


@pytest.mark.parametrize(
    ("event", "kind", "fingerprint", "site", "count"),
    [
        pytest.param(make_leak(), "dropped", FINGERPRINT, f"{FILE}:88", 3, id="leak"),
        pytest.param(make_leak(hold=make_hold(site=None)), "dropped", FINGERPRINT, None, 3, id="no site"),
        pytest.param(make_recovered(), "overdue", FINGERPRINT, f"{FILE}:88", None, id="recovered"),
        pytest.param(make_exhausted(), None, FINGERPRINT, f"{FILE}:88", 1, id="exhausted"),
        pytest.param(make_exhausted(holders=()), None, None, None, 1, id="nobody holds"),
        pytest.param(make_summary(), None, None, None, None, id="summary"),
    ],
)
def test_the_record_carries_the_event_in_attributes(
    logger: logging.Logger,
    event: Event,
    kind: str | None,
    fingerprint: str | None,
    site: str | None,
    count: int | None,
) -> None:
    """Every record has all five, so that a format string that names one never fails."""
    LogReporter(logger).report(event)
    found = vars(records_of(logger)[0])
    assert found["leakguard_event"] == event.to_dict()
    assert found["leakguard_kind"] == kind
    assert found["leakguard_fingerprint"] == fingerprint
    assert found["leakguard_site"] == site
    assert found["leakguard_count"] == count


def test_the_record_points_to_the_leaking_line(logger: logging.Logger) -> None:
    """``%(pathname)s:%(lineno)d`` in a format leads to the leak, not into leakguard."""
    LogReporter(logger).report(make_leak())
    (record,) = records_of(logger)
    assert (record.pathname, record.lineno, record.funcName) == (FILE, 88, "export_orders")


def test_the_default_logger_is_called_leakguard(caplog: pytest.LogCaptureFixture) -> None:
    """That is the name to configure."""
    LogReporter().report(make_leak())
    assert [record.name for record in caplog.records] == ["leakguard"]


def test_a_percent_sign_in_a_statement_is_inert(logger: logging.Logger) -> None:
    """SQL is full of %s."""
    event = make_leak(hold=make_hold(last_statement="SELECT %s, %(name)s, '%d%%'"))
    LogReporter(logger).report(event)
    assert "SELECT %s, %(name)s, '%d%%'" in logging.Formatter("%(message)s").format(records_of(logger)[0])


@pytest.fixture
def crowded_factory() -> Iterator[None]:
    """An application whose record factory sets our names already."""
    original = logging.getLogRecordFactory()

    def factory(*args: object, **kwargs: object) -> logging.LogRecord:
        record = original(*args, **kwargs)
        record.leakguard_kind = "theirs"
        return record

    logging.setLogRecordFactory(factory)
    yield
    logging.setLogRecordFactory(original)


@pytest.mark.usefixtures("crowded_factory")
def test_an_attribute_of_the_application_is_left_alone(logger: logging.Logger) -> None:
    """``extra=`` would raise KeyError here."""
    LogReporter(logger).report(make_leak())
    found = vars(records_of(logger)[0])
    assert found["leakguard_kind"] == "theirs"
    assert found["leakguard_count"] == 3


def test_what_is_switched_off_costs_nothing(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the logger's level, or disabled: no record, and no text is rendered."""
    monkeypatch.setattr("leakguard.reporters.log.render_event", lambda _: pytest.fail("rendered"))
    logger.setLevel(logging.CRITICAL)
    LogReporter(logger).report(make_leak())
    logger.setLevel(logging.DEBUG)
    logger.disabled = True
    LogReporter(logger).report(make_leak())
    assert records_of(logger) == []


def test_a_clean_summary_is_not_logged(logger: logging.Logger) -> None:
    """Nothing to say, no record."""
    LogReporter(logger).report(make_summary(leaks={}))
    assert records_of(logger) == []


def test_filters_apply(logger: logging.Logger) -> None:
    """The application may drop records by our attributes."""
    logger.addFilter(lambda record: vars(record)["leakguard_kind"] != "dropped")
    LogReporter(logger).report(make_leak())
    LogReporter(logger).report(make_leak(kind="orphaned"))
    assert [vars(record)["leakguard_kind"] for record in records_of(logger)] == ["orphaned"]
