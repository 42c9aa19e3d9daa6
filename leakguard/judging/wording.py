"""The sentences of a report: what happened, and what to write instead, for the library at hand."""

from __future__ import annotations

from typing import Literal

from leakguard.model import Boundary, Kind

_CLOSED_BY_ITSELF = {
    "psycopg": "with psycopg.connect(...) as conn:",
    "psycopg2": "with contextlib.closing(psycopg2.connect(...)) as conn:",
    "sqlite3": "with contextlib.closing(sqlite3.connect(...)) as conn:",
    "asyncpg": "try: ... finally: await conn.close()",
    "psycopg_pool": "with pool.connection() as conn:",
    "psycopg2_pool": "try: ... finally: pool.putconn(conn)",
    "asyncpg_pool": "async with pool.acquire() as conn:",
    "sqlalchemy": "with engine.connect() as conn:  (or with Session(engine) as session:)",
}


def duration(seconds: float) -> str:
    """Seconds as people read them: ``0.25 s``, ``12.0 s``, ``12m04s``, ``3h05m``."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def better_form(library: str, *, is_async: bool) -> str:
    """The form of acquiring that cannot forget to release."""
    form = _CLOSED_BY_ITSELF.get(library, "with contextlib.closing(connect(...)) as conn:")
    if not is_async or library in ("asyncpg", "asyncpg_pool"):
        return form
    if library == "psycopg":
        return "async with await psycopg.AsyncConnection.connect(...) as conn:"
    return form.replace("with ", "async with ").replace("Session(engine)", "AsyncSession(engine)")


def dropped_reason(what: str, pool: str | None, *, healed: bool, closed: bool) -> str:
    """Why it is a leak, and what has become of the connection and of its place in the pool."""
    if pool is None:
        return f"The {what} was garbage-collected while it was still open: nothing closed it."
    if closed and not healed:
        return (
            f'The connection was closed instead of returned to pool "{pool}", then garbage-collected: '
            "the pool has lost this slot for good."
        )
    if healed:
        return (
            f'The checkout was garbage-collected without being returned; pool "{pool}" took its place back, '
            "but only when the collector came by."
        )
    return (
        f'The checkout was garbage-collected without being returned to pool "{pool}": '
        "the pool has lost this slot for good."
    )


def abandoned_reason(pool: str) -> str:
    """Why it is a leak, of a pool that keeps a reference of its own: the collector will never come by."""
    return (
        f'Nobody but pool "{pool}" itself refers to the checkout any more, so nothing can give it back: '
        "the pool has lost this slot until it is closed."
    )


def reason_for(kind: Kind, *, owner: str, held: str, detail: str, boundary: Boundary | None) -> str:
    """The sentence for a finding about a hold; `detail` completes it where the kind needs more."""
    match kind:
        case "orphaned":
            return f"Its owner, {owner}, has ended {detail} ago; since then nobody has used the connection."
        case "overdue":
            return f"Held for {held}, longer than the {detail} that a checkout may last here."
        case "idle_in_transaction":
            return f"An open transaction in which no statement has run for {detail}; its locks stay until it ends."
        case "lost_slot":
            return f"The connection was closed {detail} ago instead of being returned: the pool goes on waiting for it."
        case "nested_acquire":
            return f"{owner[:1].upper()}{owner[1:]} already holds a connection of this pool, acquired at {detail}."
        case "outstanding":
            where = {
                "exit": "when the process ended",
                "test": "when the test ended",
                "no_leaks": "at the end of no_leaks()",
            }
            return f"Still held {detail or where[boundary or 'exit']}, {held} after it was acquired."
        case "dropped" | "unclosed_pool":
            return detail


def advice_for_pool(kind: Literal["lost_slot", "unclosed_pool"], library: str) -> str:
    """The same where no hold is to blame, but what became of the pool."""
    match kind, library:
        case "unclosed_pool", "sqlalchemy":
            return "Create one engine for the whole process, or end this one with engine.dispose()."
        case "unclosed_pool", "psycopg2_pool":
            return "Create one pool for the whole process, or call this one's closeall() before dropping it."
        case "unclosed_pool", _:
            return "Open the pool with a `with` block, or call its close() before dropping it."
        case "lost_slot", "psycopg_pool":
            return (
                "A task that is cancelled inside putconn(), also at the end of `async with pool.connection()`, loses "
                "the slot: `await asyncio.shield(pool.putconn(conn))`. If nothing is cancelled here, look for what "
                "raises while a connection is returned."
            )
        case "lost_slot", _:
            return "Look for an event listener or a cancelled call that raises while a connection is being returned."


def advice_for(kind: Kind, library: str, *, is_async: bool) -> str:
    """The sentence that says what to do."""
    form = better_form(library, is_async=is_async)
    match kind:
        case "dropped" | "outstanding":
            return f"Acquire it as `{form}`, so that every way out gives it back."
        case "orphaned":
            return f"Give it back before its owner ends: `{form}`, or a try/finally around the owner's work."
        case "lost_slot":
            if library not in ("psycopg_pool", "psycopg2_pool"):
                return advice_for_pool(kind, library)
            awaited = " (await it)" if is_async else ""
            return f"Return it with `putconn()` instead of `close()`{awaited}, or use `{form}`, which does."
        case "overdue":
            return (
                "Give the connection back before the slow part, or say that it is meant: "
                "leakguard.expect_long(reason) or a higher threshold."
            )
        case "idle_in_transaction":
            return "Commit or roll back before the pause, or use autocommit for reads; then give the connection back."
        case "unclosed_pool":
            return advice_for_pool(kind, library)
        case "nested_acquire":
            then = "is exhausted by itself" if library == "psycopg2_pool" else "deadlocks on itself"
            return f"Pass the connection that is already held down to this call; under load the pool {then}."
