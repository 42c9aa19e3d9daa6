"""Who holds what, as text: the worst first, one block a bug, and nothing in it that a terminal would obey."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from leakguard.model import HoldNow, LeakCount, Now, PoolNow, Snapshot
from leakguard.prose.holders import grouped, is_clean, render_snapshots, verdict_of, with_cures
from tests.factories import NOON, later, make_hold, make_owner, make_server, make_site, make_stack


def make_held(**changes: Any) -> HoldNow:
    """A hold of a live process."""
    given: dict[str, Any] = {
        "hold": make_hold(),
        "fingerprint": "8f21c0a4d9e1",
        "now": Now(owner="running", stack=make_stack()),
        "suspected": (),
        "proven": False,
        "allowed": None,
        "kept_by": None,
        "cure": None,
    }
    return HoldNow(**given | changes)


def make_pool_now(**changes: Any) -> PoolNow:
    """A pool that is full."""
    given: dict[str, Any] = {
        "name": "main",
        "library": "psycopg_pool",
        "fingerprint": "0" * 12,
        "created_at": make_site(file="/srv/shop/db.py", line=9),
        "open": 40,
        "held": 37,
        "lost": 3,
        "pending": 5,
        "timeouts": 2,
        "capacity": 40,
        "error": None,
        "idle": (),
    }
    return PoolNow(**given | changes)


def make_snapshot(*holds: HoldNow, **changes: Any) -> Snapshot:
    """A process with these holds."""
    given: dict[str, Any] = {
        "time": NOON,
        "version": "0.1.0",
        "pid": 4242,
        "parent_pid": 1,
        "process": "python app.py",
        "host": "web1",
        "python": "3.13.0",
        "started_at": later(-7500),
        "settings": {},
        "pools": (),
        "holds": holds,
        "left_out": 0,
        "leaks": (),
        "acquired": len(holds),
        "released": 0,
        "held": len(holds),
        "leaked": 0,
        "internal_errors": 0,
        "dropped_events": 0,
    }
    return Snapshot(**given | changes)


def old(seconds: float, **changes: Any) -> HoldNow:
    """A hold of so many seconds."""
    return make_held(hold=make_hold(held_for=seconds, acquired_at=NOON - timedelta(seconds=seconds)), **changes)


def test_a_block_says_who_where_and_what_to_do() -> None:
    """Line first, then the way there, where the owner is now, each hold, and why it is alive."""
    ended = old(724.0, now=Now(owner="ended", stack=()), proven=True, kept_by=("item 0 of a list", "module global `x`"))
    text = render_snapshots([make_snapshot(ended, pools=(make_pool_now(),))])
    assert text == (
        "1 connection held at 1 place\n"
        "\n"
        "pid 4242 (python app.py) on web1, at 12:00:00 UTC, up for 2h05m\n"
        '  pool:        "main" (psycopg_pool), 37 of 40 held, 40 open, 5 waiting,\n'
        "               2 timed out, 3 lost for good, created at /srv/shop/db.py:9\n"
        "\n"
        "LEAK x1  12m04s  8f21c0a4d9e1  /srv/shop/orders.py:88\n"
        "  in export_orders, by psycopg_pool getconn:\n"
        "      conn = pool.getconn()\n"
        "             ~~~~~~~~~~~~~~\n"
        "  called from: /srv/shop/web.py:31 in handler\n"
        "               /srv/shop/main.py:12 in main\n"
        "               (2 library frames hidden)\n"
        "  now:         the thread has ended\n"
        "  server:      10.0.0.5:5432/shop, user app\n"
        "  last sql:    SELECT * FROM orders WHERE id = ?\n"
        "  held    unused  state            backend  owner\n"
        '  12m04s  11m58s  in transaction       991  thread "worker-3", ended\n'
        "  kept by:     item 0 of a list\n"
        "               in module global `x`\n"
        "  fix:         Give it back before its owner ends:\n"
        "               `with pool.connection() as conn:`, or a try/finally around the\n"
        "               owner's work."
    )


def test_no_line_is_wider_than_a_terminal() -> None:
    """Where neither paths nor names make it so."""
    text = render_snapshots([make_snapshot(old(724.0, suspected=("overdue",)), pools=(make_pool_now(),))])
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_held_is_one_line_a_process() -> None:
    """The clean twin."""
    text = render_snapshots([make_snapshot()])
    assert text == "0 connections held\n\npid 4242 (python app.py) on web1, at 12:00:00 UTC, up for 2h05m"


def test_the_worst_come_first() -> None:
    """Proven, suspected, held, allowed; then the most, then the oldest."""
    holds = [
        old(1000.0, fingerprint="allowed", allowed="LISTEN"),
        old(999.0, fingerprint="old"),
        *(old(5.0, fingerprint="many") for _ in range(3)),
        old(1.0, fingerprint="orphan", now=Now(owner="ended", stack=())),
        old(2.0, fingerprint="overdue", suspected=("overdue",)),
        old(0.5, fingerprint="proven", proven=True),
    ]
    groups = grouped([make_snapshot(*holds)])
    assert [(group.fingerprint, group.verdict, len(group.members)) for group in groups] == [
        ("proven", "LEAK", 1),
        ("overdue", "SUSPECT", 1),
        ("orphan", "SUSPECT", 1),
        ("many", "HELD", 3),
        ("old", "HELD", 1),
        ("allowed", "ALLOWED", 1),
    ]


def test_processes_are_told_together() -> None:
    """One bug of a service with many workers is one block, with a column for the process."""
    first, second = make_snapshot(old(3.0)), make_snapshot(old(9.0), old(1.0), pid=4343)
    text = render_snapshots([first, second])
    assert text.startswith("3 connections held at 1 place by 2 processes\n")
    rows = [line.split() for line in text.splitlines() if "worker-3" in line]
    assert [row[-3:] for row in rows] == [[pid, "thread", '"worker-3"'] for pid in ("4343", "4242", "4343")]


def test_where_many_owners_are_is_counted() -> None:
    """Three places at most, the most frequent first."""
    at = [Now(owner="running", stack=(replace(make_stack()[1], line=line),)) for line in (1, 2, 2, 2, 3, 3, 4, 5)]
    text = render_snapshots([make_snapshot(*(old(9.0, now=now) for now in at))])
    places = [line.removeprefix("  now:").strip() for line in text.splitlines() if " x the thread" in line]
    assert [place.split()[0] for place in places] == ["3", "2", "1"]
    assert "(2 at 2 other places)" in text


def test_many_holds_are_folded_and_everything_can_be_asked_for() -> None:
    """Five lines, and how many more there are."""
    snapshot = make_snapshot(*(old(float(age)) for age in range(1, 9)))
    folded = render_snapshots([snapshot])
    assert "  (3 more)" in folded
    assert re.findall(r"^  (\d\.0 s)", folded, re.MULTILINE) == ["8.0 s", "7.0 s", "6.0 s", "5.0 s", "4.0 s"]
    assert "x8  oldest 8.0 s" in folded
    everything = render_snapshots([snapshot], everything=True)
    assert "more)" not in everything
    assert everything.count('thread "worker-3"') == 8
    assert "site-packages/flask/app.py:902 in dispatch" in everything


def test_what_was_left_out_is_said() -> None:
    """A snapshot that was cut says so in the first line."""
    assert "11 connections held at 1 place (the newest 10 are left out)" in render_snapshots(
        [make_snapshot(old(1.0), left_out=10)]
    )


def test_findings_and_our_own_errors_are_told() -> None:
    """What was found so far, by kind, the worst first."""
    found = [
        LeakCount(kind=kind, certain=True, fingerprint="x", site=None, count=count, time=NOON)
        for kind, count in (("overdue", 2), ("dropped", 3), ("dropped", 1))
    ]
    text = render_snapshots([make_snapshot(leaks=tuple(found), internal_errors=1)])
    assert "  found:       4 dropped, 2 overdue" in text
    assert "1 internal error of leakguard, please report" in text


def test_a_pool_that_cannot_connect_says_what_the_server_said() -> None:
    """That is what to look at first."""
    pool = make_pool_now(error="FATAL: sorry, too many clients already", capacity=None, created_at=None)
    text = render_snapshots([make_snapshot(pools=(pool,))])
    assert "error:       FATAL: sorry, too many clients already" in text
    assert "37 held, 40 open" in text


@pytest.mark.parametrize(
    ("change", "verdict", "clean"),
    [
        ({}, "HELD", True),
        ({"allowed": "LISTEN", "proven": True}, "ALLOWED", True),
        ({"proven": True}, "LEAK", False),
        ({"suspected": ("overdue",)}, "SUSPECT", False),
        ({"now": Now(owner="ended", stack=())}, "SUSPECT", False),
        ({"now": Now(owner="unknown", stack=())}, "HELD", True),
    ],
)
def test_verdicts(change: dict[str, Any], verdict: str, clean: bool) -> None:
    """Held is no offence; what is allowed neither."""
    held = make_held(**change)
    assert verdict_of(held) == verdict
    assert is_clean(make_snapshot(held)) is clean


def test_a_certain_leak_of_the_past_is_not_clean() -> None:
    """Also where nothing is held any more; a suspicion of the past is."""
    for certain in (True, False):
        found = LeakCount(kind="dropped", certain=certain, fingerprint="x", site=None, count=1, time=NOON)
        assert is_clean(make_snapshot(leaks=(found,))) is not certain


def test_cures_come_from_the_source(tmp_path: Path) -> None:
    """The sentence and the line to write instead, where the file is the one that ran; else nothing."""
    file = tmp_path / "orders.py"
    file.write_text("def f(pool):\n    conn = pool.getconn()\n    conn.execute('x')\n")
    site = make_site(file=str(file), line=2, function="f", code="conn = pool.getconn()")
    snapshot = make_snapshot(make_held(hold=make_hold(site=site)))
    (one,) = with_cures(snapshot).holds
    assert one.cure is not None
    assert one.cure.splitlines()[1] == "with pool.connection() as conn:"
    text = render_snapshots([with_cures(snapshot)])
    assert "fix:         `conn` is taken without `with`" in text
    assert "instead:     with pool.connection() as conn:" in text
    for changed in ("def f(pool):\n    conn = other.getconn()\n", "", "def f(pool"):
        file.write_text(changed)
        assert [one.cure for one in with_cures(snapshot).holds] == [None]
    gone = make_snapshot(make_held(hold=make_hold(site=None)), make_held())
    assert [one.cure for one in with_cures(gone).holds] == [None, None]


def test_hostile_strings_are_inert() -> None:
    """Names, labels, statements, files: from another process, perhaps of another user."""
    evil = "\x1b[2J\x9b\u202e\x07\n"
    owner = make_owner(thread=evil, task=evil, labels={evil: evil}, test=evil)
    hold = make_hold(
        owner=owner,
        library=evil,
        operation=evil,
        pool=evil,
        last_statement=evil,
        site=make_site(file=evil, function=evil, code=evil),
        server=make_server(host=evil, dbname=evil, user=evil),
        stack=tuple(replace(frame, file=evil, function=evil) for frame in make_stack()),
    )
    held = make_held(hold=hold, fingerprint=evil, kept_by=(evil,), allowed=evil, cure=f"{evil}\n{evil}")
    pool = make_pool_now(name=evil, library=evil, error=evil)
    for everything in (False, True):
        text = render_snapshots([make_snapshot(held, pools=(pool,), process=evil, host=evil)], everything=everything)
        assert not [char for char in text if not char.isprintable() and char != "\n"]
