"""From events and snapshots to the page: what is counted, what is shown one by one, and what becomes harmless."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from leakguard.baseline import Baseline, Entry
from leakguard.evidence import Evidence
from leakguard.html import live, report
from leakguard.html.data import to_data, to_json
from leakguard.html.page import Bug, Page
from leakguard.html.report import EventPage
from leakguard.html.source import Source
from leakguard.known import Known
from leakguard.model import Event, Snapshot, Trace
from leakguard.reporters.jsonl import encode
from tests.factories import (
    FINGERPRINT,
    NOON,
    later,
    make_exhausted,
    make_hold,
    make_leak,
    make_owner,
    make_recovered,
    make_site,
    make_summary,
)
from tests.html.snapshots import make_hold_now, make_leak_count, make_pool_now, make_snapshot

EVIL = "</script><script>alert(1)</script><!--\u202e\u2028\u0000\udc80&\"'<img src=x onerror=alert(2)>{{ 7 * 7 }}"


def page(*events: Event | Snapshot, known: Known | None = None, source: Source | None = None) -> Page:
    """The page of one file of events."""
    found = EventPage(source)
    evidence = Evidence(found.observe)
    evidence.read(Path("leaks.jsonl"), BytesIO(b"".join(map(encode, events))))
    return found.page(evidence, known, NOON)


def only(shown: Page) -> Bug:
    """Its only place."""
    (bug,) = shown.bugs
    return bug


# ------------------------------------------------------------------------------------------------------------- events


def test_one_hold_is_one_row_with_all_that_was_found_of_it() -> None:
    """Suspected, proven: the newest event tells most, the counts stay those of the events."""
    bug = only(
        page(
            make_leak(kind="overdue", certain=False, count=1),
            make_leak(kind="orphaned", count=4, time=later(9), hold=make_hold(held_for=733.0)),
            make_leak(kind="overdue", certain=False, count=2, hold=make_hold(id=18, acquired_at=later(1))),
        )
    )
    assert (bug.verdict, bug.counts) == ("leak", (("orphaned", 4), ("overdue", 2)))
    assert [(row.what, row.held_for) for row in bug.holds] == [(("overdue", "orphaned"), 733.0), (("overdue",), 724.0)]


def test_a_hold_that_came_back_says_so() -> None:
    """Also one whose suspicion was folded away."""
    bug = only(page(make_leak(kind="overdue", certain=False), make_recovered(hold=make_hold(id=99))))
    assert [row.what for row in bug.holds] == [("overdue",), ("overdue", "came back")]


def test_a_process_id_that_comes_again_has_other_holds() -> None:
    """In a container every run is process 1, and numbers its holds from 1 on."""
    bug = only(page(make_leak(), make_leak(hold=make_hold(acquired_at=later(100)), time=later(101), count=1)))
    assert len(bug.holds) == 2


def test_a_leak_of_a_pool_is_a_row_too() -> None:
    """There is no hold, but a pool, and where it was made."""
    bug = only(page(make_leak(kind="unclosed_pool", hold=None)))
    assert bug.how == "where the pool was created"
    assert [(row.what, row.owner, row.held_for) for row in bug.holds] == [
        (("unclosed_pool",), '"main" (psycopg_pool)', None)
    ]


def test_the_rows_of_a_flood_are_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says how many there were beyond."""
    monkeypatch.setattr(report, "LIMIT", 2)
    bug = only(page(*(make_leak(count=n, hold=make_hold(id=n)) for n in range(1, 6))))
    assert (len(bug.holds), bug.left_out, bug.counts) == (2, 3, (("dropped", 5),))


def test_a_place_without_a_site_shows_the_innermost_frame() -> None:
    """There is no line of the application, so there is no excerpt."""
    bug = only(page(make_leak(site=None, hold=make_hold(site=None))))
    assert bug.excerpt is None
    assert bug.place.startswith("(no application frame) ")
    assert bug.place.endswith("pool.py:191 in getconn")


def test_a_trace_is_told() -> None:
    """So that the way from a leak to the request that caused it is one search."""
    (row,) = only(page(make_leak(hold=make_hold(trace=Trace(trace_id="a" * 32, span_id="b" * 16))))).holds
    assert ("trace", (f"{'a' * 32}, span {'b' * 16}",)) in row.facts


def test_lines_that_were_skipped_are_notes() -> None:
    """What could not be read is said on the page, too."""
    found = EventPage()
    evidence = Evidence(found.observe)
    evidence.read(Path("leaks.jsonl"), BytesIO(b"garbage\n"))
    (note,) = found.page(evidence, None, NOON).notes
    assert "1 line that no leakguard wrote" in note


# ---------------------------------------------------------------------------------------------------------- standing

KNOWN = Known(baseline=Baseline({FINGERPRINT: Entry(fingerprint=FINGERPRINT, max_count=3, reason="to be ported")}))


@pytest.mark.parametrize(
    ("known", "count", "standing", "why"),
    [
        pytest.param(None, 3, None, "", id="no baseline"),
        pytest.param(KNOWN, 3, "known", "the baseline has at most 3: to be ported", id="known"),
        pytest.param(KNOWN, 5, "more", "the baseline has at most 3, this is 2 more", id="more"),
        pytest.param(Known(), 3, "new", "", id="new"),
        pytest.param(Known(earlier=frozenset({FINGERPRINT})), 900, "known", "the earlier run had it", id="earlier"),
    ],
)
def test_a_place_is_new_or_known(known: Known | None, count: int, standing: str | None, why: str) -> None:
    """With a baseline only: without one, nothing could be called new."""
    bug = only(page(make_leak(count=count), known=known))
    assert (bug.standing, bug.standing_why) == (standing, why)


def test_what_is_new_comes_first() -> None:
    """A known leak of many does not stand before a new one."""
    shown = page(make_leak(count=3), make_leak(fingerprint="a03b77c15e20", count=1), known=KNOWN)
    assert [bug.standing for bug in shown.bugs] == ["new", "known"]


# -------------------------------------------------------------------------------------------------------------- source

CODE = """\
import os
def export_orders(pool):
    "Exports."

    conn = pool.getconn()
    conn.login(password="hunter2")
    return 1
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a file that acquires in line 5."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "orders.py").write_text(CODE)
    return tmp_path / "shop"


def excerpt(file: Path, source: Path | None, **changes: Any) -> list[tuple[int, str]]:
    """The lines that the page shows of a leak in line 5 of that file."""
    site = make_site(**{"file": str(file), "line": 5} | changes)
    shown = only(page(make_leak(site=site), source=Source(source) if source is not None else None)).excerpt
    assert shown is not None
    (here,) = [line for number, line in shown.lines if number == shown.line]
    assert here[slice(*shown.mark)] == "pool.getconn()"
    return list(shown.lines)


LINE = [(5, "conn = pool.getconn()")]


def test_lines_around_a_place_are_shown_without_secrets(project: Path) -> None:
    """Below the directory that was named; blank lines at the edges are left out."""
    assert excerpt(project / "orders.py", project) == [
        (2, "def export_orders(pool):"),
        (3, '    "Exports."'),
        (4, ""),
        (5, "    conn = pool.getconn()"),
        (6, "    conn.login(password=***)"),
        (7, "    return 1"),
    ]


def test_no_file_is_read_unless_asked(project: Path) -> None:
    """The line that the event carries is all there is."""
    assert excerpt(project / "orders.py", None) == LINE
    assert only(page(make_leak(site=make_site(file=str(project / "orders.py"), line=5)))).cure == ()


def test_the_source_tells_what_to_write_instead(project: Path) -> None:
    """For this very line, where that is clear; a file that may not be read tells nothing."""
    leak = make_leak(site=make_site(file=str(project / "orders.py"), line=5))
    bug = only(page(leak, source=Source(project)))
    assert bug.cure[0] == "with pool.connection() as conn:"
    assert bug.fix != leak.advice
    bug = only(page(leak, source=Source(project / "elsewhere")))
    assert (bug.cure, bug.fix) == ((), leak.advice)


def test_a_file_elsewhere_is_not_read(project: Path, tmp_path: Path) -> None:
    """An event may name any file; neither dots nor a symbolic link lead out of the directory."""
    (tmp_path / "secrets.py").write_text(CODE)
    (project / "link.py").symlink_to(tmp_path / "secrets.py")
    for file in (tmp_path / "secrets.py", project / ".." / "secrets.py", project / "link.py"):
        assert excerpt(file, project) == LINE
    (project / "notes.txt").write_text(CODE)
    assert excerpt(project / "notes.txt", project) == LINE


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"code": "other = pool.getconn()"}, id="another line"),
        pytest.param({"line": 1}, id="another place"),
        pytest.param({"line": 99}, id="behind the end"),
        pytest.param({"line": 0}, id="no line"),
    ],
)
def test_a_file_that_has_changed_is_not_shown(project: Path, changes: dict[str, Any]) -> None:
    """Lines around something else would lead astray."""
    assert len(excerpt(project / "orders.py", project, **changes)) == 1


def test_a_file_that_is_no_source_is_not_shown(project: Path) -> None:
    """Whatever it holds, the page is made."""
    (project / "binary.py").write_bytes(b"\xff\x00\n" * 9)
    assert excerpt(project / "binary.py", project) == LINE


# ---------------------------------------------------------------------------------------------------------- snapshots


def live_page(*snapshots: Snapshot) -> Page:
    """The page of running processes."""
    return live.page(snapshots, NOON)


def test_a_running_process_tells_what_it_holds() -> None:
    """The leaking place with its exact counts and its hold, then what is in good hands."""
    leaking, busy = live_page(make_snapshot()).bugs
    assert (leaking.verdict, leaking.counts) == ("leak", (("held now", 1), ("dropped", 3)))
    assert (busy.verdict, busy.counts) == ("held", (("held now", 1),))
    (row,) = leaking.holds
    assert row.what == ("overdue", "leak")
    assert row.kept_by == ("global shop.orders.PENDING", "  [3]: psycopg.Connection")
    assert (leaking.fix, leaking.cure) == (
        "`conn` is given back on success only.",
        ("with pool.connection() as conn:",),
    )


def test_processes_are_put_together() -> None:
    """One bug in two processes is one place with two holds; pools stay apart."""
    shown = live_page(make_snapshot(), make_snapshot(pid=4243))
    assert len(shown.bugs[0].holds) == 2
    assert dict(shown.bugs[0].counts) == {"held now": 2, "dropped": 6}
    assert len(shown.tracks) == len(shown.processes) == 2
    assert shown.headline == "4 connections held now; found so far: 6 leaks, 1 place"


def test_a_pool_without_a_hold_has_a_time_line_too() -> None:
    """All of its slots may be lost."""
    (track,) = live_page(make_snapshot(holds=(), pools=(make_pool_now(held=0, lost=4, open=0),), held=0)).tracks
    assert (track.spans, track.samples[0].lost, track.capacity) == ((), 4, 4)


def test_direct_connections_have_a_time_line() -> None:
    """Without a limit."""
    (track,) = live_page(make_snapshot(holds=(make_hold_now(hold=make_hold(pool=None)),), pools=())).tracks
    assert (track.name, track.capacity, len(track.spans)) == ("direct connections", None, 1)


def test_a_leak_whose_hold_is_gone_is_still_a_place() -> None:
    """It was garbage-collected: there is nothing to hold any more."""
    (bug,) = live_page(make_snapshot(holds=(), leaks=(make_leak_count(kind="overdue", certain=False),))).bugs
    assert (bug.verdict, bug.place, bug.holds) == ("suspect", "/srv/shop/orders.py:88", ())


def test_what_is_held_on_purpose_says_why() -> None:
    """A reason was given to allow()."""
    allowed = make_hold_now(suspected=(), proven=False, allowed="leader lock")
    (bug,) = live_page(make_snapshot(holds=(allowed,), leaks=())).bugs
    assert (bug.verdict, bug.holds[0].what) == ("held", ("allowed",))
    assert ("allowed", ("leader lock",)) in bug.holds[0].facts


def test_what_a_snapshot_leaves_out_is_a_note() -> None:
    """Nothing is silently missing."""
    notes = live_page(make_snapshot(left_out=5, dropped_events=2, internal_errors=1)).notes
    assert [note.partition(": ")[2] for note in notes] == [
        "5 more holds than a snapshot may carry",
        "2 events could not be told to every reporter",
        "1 internal error of leakguard, please report",
    ]


def test_no_process_is_a_page_too() -> None:
    """There is nothing to show, and that is said."""
    shown = live_page()
    assert (shown.about, shown.bugs, shown.tracks) == ("no process", (), ())


# ----------------------------------------------------------------------------------------------------------- incidents


def incident(**changes: Any) -> list[Event | Snapshot]:
    """What an incident file has: the refusal, and all that was held at that moment."""
    return [make_exhausted(time=NOON, holders=(), held=2, lost=1, capacity=4), make_snapshot(**changes)]


def test_an_incident_shows_everything_that_was_held() -> None:
    """The time line has each hold since it was acquired, and both exact counts; every hold is a row."""
    shown = page(*incident())
    assert [(bug.verdict, bug.counts[0], len(bug.holds)) for bug in shown.bugs] == [
        ("leak", ("held", 1), 1),
        ("held", ("held", 1), 1),
    ]
    (track,) = shown.tracks
    assert [(span.start, span.seen) for span in track.spans] == [(later(-724), NOON), (later(-2), NOON)]
    assert [(sample.held, sample.refused) for sample in track.samples] == [(2, 1), (2, 0)]
    words = "2 connections held in 1 snapshot; found so far: 3 leaks, 1 place; no connection left 1 time"
    assert (shown.headline, shown.about) == (words, "1 file, 2026-01-31 12:00:00 UTC")
    assert [process.name for process in shown.processes] == ["pid 4242 (python app.py) on web1"]


def test_an_incident_and_events_tell_of_one_bug_together() -> None:
    """The hold of the snapshot is a row of the leak's place, beside those of the events; or it is one of them."""
    orphaned = make_leak(kind="orphaned", count=1, hold=make_hold(held_for=729.0), time=later(5))
    shown = page(make_leak(hold=make_hold(id=1)), orphaned, *incident())
    assert shown.headline.endswith("1 process; 2 connections held in 1 snapshot")
    bug = shown.bugs[0]
    assert bug.counts == (("dropped", 3), ("orphaned", 1))
    rows = {row.what: row for row in bug.holds}
    assert rows.keys() == {("dropped",), ("orphaned", "overdue", "leak")}
    merged = rows["orphaned", "overdue", "leak"]  # the newer moment, with what only the snapshot knows
    assert (merged.held_for, len(merged.kept_by)) == (729.0, 2)


def test_several_incidents_of_a_process_count_its_leaks_once() -> None:
    """They are running totals; the same hold in each is one row."""
    shown = page(*incident(), *incident(time=later(60), leaks=(make_leak_count(count=5),)))
    assert shown.bugs[0].counts == (("held", 1), ("dropped", 5))
    assert len(shown.bugs[0].holds) == 1
    (track,) = shown.tracks
    assert len(track.spans) == 2


def test_what_an_incident_holds_may_be_known() -> None:
    """A place that leaks is new or known; one that just held is neither."""
    shown = page(*incident(), known=KNOWN)
    assert [(bug.fingerprint, bug.standing) for bug in shown.bugs] == [("a03b77c15e20", None), (FINGERPRINT, "known")]


# ------------------------------------------------------------------------------------------------------------ harmless


def strings(value: object) -> list[str]:
    """Every string in the data, keys included."""
    match value:
        case str():
            return [value]
        case dict():
            return [*value, *(string for item in value.values() for string in strings(item))]
        case list():
            return [string for item in value for string in strings(item)]
        case _:
            return []


def hostile_events() -> list[Event]:
    """Events in which every string is somebody's attack."""
    site = make_site(file=EVIL, function=EVIL, code=EVIL)
    owner = make_owner(thread=EVIL, task=EVIL, test=EVIL, process=EVIL, host=EVIL, labels={EVIL: EVIL})
    hold = make_hold(
        owner=owner, site=site, library=EVIL, operation=EVIL, pool=EVIL, last_statement="x" * 10_000 + EVIL
    )
    leak = make_leak(fingerprint=EVIL, site=site, hold=hold, reason=EVIL * 99, advice=f"`{EVIL}`")
    return [leak, make_exhausted(pool=EVIL, error=EVIL), make_summary(process=EVIL, host=EVIL, leaks={EVIL: 1})]


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda: page(*hostile_events()), id="events"),
        pytest.param(
            lambda: live_page(
                make_snapshot(
                    process=EVIL,
                    settings={EVIL: EVIL},
                    pools=(make_pool_now(name=EVIL, error=EVIL),),
                    holds=(make_hold_now(kept_by=(EVIL,), cure=EVIL, allowed=EVIL, fingerprint=EVIL),),
                )
            ),
            id="snapshot",
        ),
    ],
)
def test_every_string_is_harmless(shown: Any) -> None:
    """Printable, of bounded length, and as JSON nothing that could end a script or begin a comment."""
    data = to_data(shown())
    for string in strings(data):
        assert string.isprintable()
        assert len(string) < 5_000
    text = to_json(data)
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert json.loads(text) == data
