"""Events for tests, made through the model's own classes: each factory gives a plausible one, any field can be set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from leakguard.model import (
    Exhausted,
    Frame,
    Hold,
    HolderGroup,
    Leak,
    Now,
    Owner,
    PoolInfo,
    Recovered,
    Server,
    Site,
    Summary,
)

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
FINGERPRINT = "8f21c0a4d9e1"
FILE = "/srv/shop/orders.py"


def later(seconds: float) -> datetime:
    """So many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def make_site(**changes: Any) -> Site:
    """The line of the shop that acquires."""
    given: dict[str, Any] = {
        "file": FILE,
        "line": 88,
        "function": "export_orders",
        "code": "conn = pool.getconn()",
    }
    return Site(**given | changes)


def make_stack() -> tuple[Frame, ...]:
    """The way to that line: two callers of the application, and the frames of libraries around them."""
    return (
        Frame(file="/venv/lib/python3.11/site-packages/psycopg_pool/pool.py", line=191, function="getconn", app=False),
        Frame(file=FILE, line=88, function="export_orders", app=True),
        Frame(file="/srv/shop/web.py", line=31, function="handler", app=True),
        Frame(file="/venv/lib/python3.11/site-packages/flask/app.py", line=902, function="dispatch", app=False),
        Frame(file="/srv/shop/main.py", line=12, function="main", app=True),
    )


def make_owner(**changes: Any) -> Owner:
    """A thread of one process."""
    given: dict[str, Any] = {
        "pid": 4242,
        "process": "python app.py",
        "host": "web1",
        "thread": "worker-3",
        "task": None,
        "test": None,
        "labels": {},
    }
    return Owner(**given | changes)


def make_server(**changes: Any) -> Server:
    """A server over TCP."""
    given: dict[str, Any] = {
        "host": "10.0.0.5",
        "port": 5432,
        "dbname": "shop",
        "user": "app",
        "backend_pid": 991,
        "client_port": 51234,
    }
    return Server(**given | changes)


def make_hold(**changes: Any) -> Hold:
    """A checkout of a psycopg_pool, twelve minutes old."""
    given: dict[str, Any] = {
        "id": 17,
        "library": "psycopg_pool",
        "operation": "getconn",
        "pool": "main",
        "acquired_at": later(-724),
        "held_for": 724.0,
        "last_used_at": later(-718),
        "statements": 3,
        "last_statement": "SELECT * FROM orders WHERE id = ?",
        "owner": make_owner(),
        "site": make_site(),
        "stack": make_stack(),
        "server": make_server(),
        "state": "in_transaction",
    }
    return Hold(**given | changes)


def make_pool(**changes: Any) -> PoolInfo:
    """A pool with one slot left."""
    given: dict[str, Any] = {
        "name": "main",
        "library": "psycopg_pool",
        "created_at": make_site(file="/srv/shop/db.py", line=9, function="<module>", code="pool = ConnectionPool(DSN)"),
        "open": 3,
        "capacity": 4,
    }
    return PoolInfo(**given | changes)


def make_leak(**changes: Any) -> Leak:
    """A dropped checkout; with ``hold=None`` a leak of the pool."""
    hold = changes.get("hold", make_hold())
    given: dict[str, Any] = {
        "kind": "dropped",
        "certain": True,
        "healed": False,
        "time": NOON,
        "fingerprint": FINGERPRINT,
        "count": 3,
        "boundary": None,
        "site": hold.site if hold is not None else make_site(),
        "pool": make_pool(),
        "reason": (
            'The checkout was garbage-collected without being returned to pool "main": '
            "the pool has lost this slot for good."
        ),
        "advice": "Acquire it as `with pool.connection() as conn:`, so that every way out gives it back.",
        "hold": hold,
        "now": Now(owner="ended", stack=()),
    }
    return Leak(**given | changes)


def make_recovered(**changes: Any) -> Recovered:
    """An overdue checkout that came back."""
    given: dict[str, Any] = {
        "kind": "overdue",
        "time": NOON,
        "fingerprint": FINGERPRINT,
        "hold": make_hold(),
        "held_for": 71.2,
    }
    return Recovered(**given | changes)


def make_exhausted(**changes: Any) -> Exhausted:
    """A pool without a connection left, held at two places."""
    given: dict[str, Any] = {
        "time": NOON,
        "pid": 4242,
        "cause": "pool",
        "count": 1,
        "pool": "main",
        "error": "couldn't get a connection after 1.00 sec",
        "holders": (
            HolderGroup(fingerprint=FINGERPRINT, count=12, oldest=724.0, site=make_site()),
            HolderGroup(
                fingerprint="a03b77c15e20",
                count=3,
                oldest=4.2,
                site=make_site(file="/srv/shop/report.py", line=17, function="daily", code=None),
            ),
        ),
        "held": 15,
        "capacity": 16,
        "lost": 1,
    }
    return Exhausted(**given | changes)


def make_summary(**changes: Any) -> Summary:
    """A process that lost three connections."""
    given: dict[str, Any] = {
        "time": later(60),
        "pid": 4242,
        "process": "python app.py",
        "host": "web1",
        "acquired": 100,
        "released": 96,
        "held": 1,
        "leaked": 3,
        "leaks": {"dropped": 3},
        "internal_errors": 0,
    }
    return Summary(**given | changes)
