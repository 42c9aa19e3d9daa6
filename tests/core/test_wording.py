"""The words: a sentence for every kind and an advice for every library, none of them empty or half filled in."""

from __future__ import annotations

import itertools

import pytest

from leakguard.judging.wording import advice_for, advice_for_pool, better_form, dropped_reason, duration, reason_for
from leakguard.model import KINDS, Kind

LIBRARIES = ["psycopg", "psycopg_pool", "sqlalchemy", "psycopg2", "psycopg2_pool", "asyncpg", "asyncpg_pool", "sqlite3"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.00 s"),
        (0.25, "0.25 s"),
        (0.999, "1.00 s"),
        (1.0, "1.0 s"),
        (12.04, "12.0 s"),
        (59.94, "59.9 s"),
        (60.0, "1m00s"),
        (724.9, "12m04s"),
        (3599.0, "59m59s"),
        (3600.0, "1h00m"),
        (11_119.0, "3h05m"),
        (100 * 3600.0, "100h00m"),
    ],
)
def test_durations_as_people_read_them(seconds: float, text: str) -> None:
    """From hundredths of a second to hours."""
    assert duration(seconds) == text


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_reason(kind: Kind) -> None:
    """One whole sentence, with the detail that the judge gives it."""
    reason = reason_for(kind, owner='task "export"', held="12m04s", detail="DETAIL.", boundary="test")
    assert reason.endswith(".")
    assert reason[0].isupper()
    assert "None" not in reason
    assert "DETAIL" in reason


@pytest.mark.parametrize(
    ("kind", "library", "is_async"), [*itertools.product(KINDS, [*LIBRARIES, "mydb"], [False, True])]
)
def test_every_kind_has_an_advice_for_every_library(kind: Kind, library: str, is_async: bool) -> None:
    """One whole sentence that says what to do."""
    advice = advice_for(kind, library, is_async=is_async)
    assert advice.endswith(".")
    assert advice[0].isupper()
    assert "None" not in advice


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("orphaned", ['task "export"', "DETAIL ago"]),
        ("overdue", ["Held for 12m04s", "longer than the DETAIL"]),
        ("idle_in_transaction", ["no statement has run for DETAIL"]),
        ("lost_slot", ["closed DETAIL ago", "instead of being returned"]),
        ("nested_acquire", ['Task "export" already holds', "acquired at DETAIL"]),
        ("dropped", ["DETAIL"]),
        ("unclosed_pool", ["DETAIL"]),
    ],
)
def test_a_reason_says_what_happened(kind: Kind, words: list[str]) -> None:
    """With the owner, the time or the place that the kind is about."""
    reason = reason_for(kind, owner='task "export"', held="12m04s", detail="DETAIL", boundary=None)
    assert [word for word in words if word not in reason] == []


@pytest.mark.parametrize(
    ("boundary", "words"),
    [("exit", "when the process ended"), ("test", "when the test ended"), ("no_leaks", "at the end of no_leaks()")],
)
def test_outstanding_names_its_boundary(boundary: str, words: str) -> None:
    """Which of the three, and how long it had been held."""
    reason = reason_for("outstanding", owner="", held="0.25 s", detail="", boundary=boundary)  # type: ignore[arg-type]
    assert reason == f"Still held {words}, 0.25 s after it was acquired."


@pytest.mark.parametrize(
    ("pool", "healed", "closed", "words"),
    [
        (None, False, False, "nothing closed it"),
        ("main", False, True, "closed instead of returned"),
        ("main", True, False, "took its place back"),
        ("main", False, False, "lost this slot for good"),
    ],
)
def test_a_drop_says_what_became_of_the_slot(pool: str | None, healed: bool, closed: bool, words: str) -> None:
    """Proven words: never "lost for good" where the library healed it."""
    reason = dropped_reason("connection", pool, healed=healed, closed=closed)
    assert words in reason
    assert ("for good" in reason) == (pool is not None and not healed)
    assert pool is None or '"main"' in reason


@pytest.mark.parametrize(
    ("library", "form"),
    [
        ("psycopg", "async with await psycopg.AsyncConnection.connect(...) as conn:"),
        ("psycopg_pool", "async with pool.connection() as conn:"),
        ("asyncpg", "try: ... finally: await conn.close()"),
        ("asyncpg_pool", "async with pool.acquire() as conn:"),
    ],
)
def test_a_tasks_advice_is_asynchronous(library: str, form: str) -> None:
    """What a coroutine has to write."""
    assert better_form(library, is_async=True) == form


def test_advice_fits_the_library() -> None:
    """The form of the very library, a general one for an unknown driver."""
    assert better_form("psycopg", is_async=False) == "with psycopg.connect(...) as conn:"
    assert "AsyncSession(engine)" in better_form("sqlalchemy", is_async=True)
    assert "contextlib.closing" in better_form("mydb", is_async=False)
    assert "putconn()" in advice_for("lost_slot", "psycopg_pool", is_async=False)
    assert "await" in advice_for("lost_slot", "psycopg_pool", is_async=True)
    assert "putconn()" not in advice_for("lost_slot", "sqlalchemy", is_async=False)
    assert "asyncio.shield(pool.putconn(conn))" in advice_for_pool("lost_slot", "psycopg_pool")
    assert "close()" in advice_for("lost_slot", "psycopg_pool", is_async=False)
    assert "engine.dispose()" in advice_for("unclosed_pool", "sqlalchemy", is_async=False)
    assert "engine" not in advice_for("unclosed_pool", "psycopg_pool", is_async=False)
