"""Snapshots for tests, made through the model's own classes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from leakguard.model import Frame, Hold, HoldNow, LeakCount, Now, PoolNow, Server, Snapshot
from tests.factories import FINGERPRINT, NOON, make_hold, make_owner, make_server, make_site

WAITING = Now(
    owner="running",
    stack=(
        Frame(file="/usr/lib/python3.11/threading.py", line=331, function="wait", app=False),
        Frame(file="/srv/shop/web.py", line=40, function="upload", app=True),
    ),
)
ENDED = Now(owner="ended", stack=())


def make_hold_now(**changes: Any) -> HoldNow:
    """A checkout that its thread has forgotten, twelve minutes old."""
    given: dict[str, Any] = {
        "hold": make_hold(),
        "fingerprint": FINGERPRINT,
        "now": ENDED,
        "suspected": ("overdue",),
        "proven": True,
        "allowed": None,
        "kept_by": ("global shop.orders.PENDING", "  [3]: psycopg.Connection"),
        "cure": "`conn` is given back on success only.\nwith pool.connection() as conn:",
    }
    return HoldNow(**given | changes)


def make_pool_now(**changes: Any) -> PoolNow:
    """A pool with four slots, of which one is lost and two are held."""
    given: dict[str, Any] = {
        "name": "main",
        "library": "psycopg_pool",
        "fingerprint": "0f0f0f0f0f0f",
        "created_at": make_site(file="/srv/shop/db.py", line=9, function="<module>", code="pool = ConnectionPool(DSN)"),
        "open": 3,
        "held": 2,
        "lost": 1,
        "pending": 1,
        "timeouts": 4,
        "capacity": 4,
        "error": None,
        "idle": (make_server(backend_pid=1000),),
    }
    return PoolNow(**given | changes)


def make_leak_count(**changes: Any) -> LeakCount:
    """Three dropped checkouts."""
    given: dict[str, Any] = {
        "kind": "dropped",
        "certain": True,
        "fingerprint": FINGERPRINT,
        "site": make_site(),
        "count": 3,
        "time": NOON,
    }
    return LeakCount(**given | changes)


def make_snapshot(**changes: Any) -> Snapshot:
    """A process with two holds of one pool: one forgotten, one in good hands."""
    busy = make_hold(
        id=18,
        acquired_at=NOON - timedelta(seconds=2),
        held_for=2.0,
        state="active",
        site=make_site(file="/srv/shop/web.py", line=31, function="upload", code="with pool.connection() as conn:"),
        owner=make_owner(thread="worker-9", labels={"request": "r-17"}),
        server=Server(host="10.0.0.5", port=5432, dbname="shop", user="app", backend_pid=992, client_port=51240),
    )
    given: dict[str, Any] = {
        "time": NOON,
        "version": "0.1.0",
        "pid": 4242,
        "parent_pid": 1,
        "process": "python app.py",
        "host": "web1",
        "python": "3.11.7",
        "started_at": NOON - timedelta(hours=3),
        "settings": {"threshold": "60.0", "owner_grace": "5.0"},
        "pools": (make_pool_now(),),
        "holds": (
            make_hold_now(),
            make_hold_now(
                hold=busy,
                fingerprint="a03b77c15e20",
                now=WAITING,
                suspected=(),
                proven=False,
                kept_by=None,
                cure=None,
            ),
        ),
        "left_out": 0,
        "leaks": (make_leak_count(),),
        "acquired": 100,
        "released": 95,
        "held": 2,
        "leaked": 3,
        "internal_errors": 0,
        "dropped_events": 0,
    }
    return Snapshot(**given | changes)


def crowd(holds: int, places: int = 50) -> Snapshot:
    """A process that holds very many connections, acquired at so many places."""
    found = []
    for number in range(holds):
        place = number % places
        held: Hold = make_hold(
            id=number,
            acquired_at=NOON - timedelta(seconds=holds - number),
            held_for=float(holds - number),
            site=make_site(file=f"/srv/shop/part{place}.py", line=10 + place, function=f"handler_{place}"),
            owner=make_owner(thread=f"worker-{number % 64}", labels={"request": f"r-{number}"}),
            server=make_server(backend_pid=number),
        )
        found.append(make_hold_now(hold=held, fingerprint=f"{place:012x}", now=WAITING, proven=place % 3 == 0))
    return make_snapshot(
        holds=tuple(found),
        pools=(make_pool_now(capacity=holds + 100, held=holds, open=holds),),
        held=holds,
        acquired=holds,
        released=0,
        leaked=0,
        leaks=(),
    )
