"""The text form: what a person reads on a terminal or in a log."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from leakguard.model import KINDS, Event, Frame, HolderGroup, Kind, Leak, Now
from leakguard.prose import events, layout, phrases
from leakguard.prose.events import render_event, render_leak, render_leaks
from leakguard.prose.marker import call_span
from leakguard.reporters.text import TextReporter
from tests.factories import (
    FINGERPRINT,
    make_exhausted,
    make_hold,
    make_leak,
    make_owner,
    make_pool,
    make_recovered,
    make_server,
    make_site,
    make_stack,
    make_summary,
)


@pytest.fixture(autouse=True)
def in_srv(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of the shop, which need not exist here."""
    monkeypatch.setattr(os, "getcwd", lambda: "/srv")


DROPPED = """\
LEAK dropped connection  8f21c0a4d9e1  x3  shop/orders.py:88
  in export_orders, by psycopg_pool getconn:
      conn = pool.getconn()
             ~~~~~~~~~~~~~~
  called from: shop/web.py:31 in handler
               shop/main.py:12 in main
               (2 library frames hidden)
  owner:       thread "worker-3", pid 4242 (python app.py) on web1
  now:         the thread has ended
  held for:    12m04s, last used 11m58s ago, 3 statements
  state:       in a transaction, no statement running
  last sql:    SELECT * FROM orders WHERE id = ?
  server:      backend pid 991, 10.0.0.5:5432/shop, user app, client port 51234
  pool:        "main" (psycopg_pool), 3 of 4 connections open,
               created at shop/db.py:9
  healed:      no
  why:         The checkout was garbage-collected without being returned to pool
               "main": the pool has lost this slot for good.
  fix:         Acquire it as `with pool.connection() as conn:`, so that every
               way out gives it back."""

EXHAUSTED = """\
EXHAUSTED pool "main": 15 of 16 held by this process, 1 slot lost
  error:       couldn't get a connection after 1.00 sec
  held at:     x12 shop/orders.py:88 in export_orders, oldest 12m04s  8f21c0a4d9e1
               x3  shop/report.py:17 in daily, oldest 4.2 s  a03b77c15e20"""

SLOW_TASK = """\
SUSPECT overdue checkout  8f21c0a4d9e1  x1  shop/orders.py:88
  in export_orders, by sqlalchemy connect:
      async with engine.connect() as conn:
                 ~~~~~~~~~~~~~~~~
  called from: shop/web.py:31 in handler
               shop/main.py:12 in main
               (2 library frames hidden)
  owner:       test "tests/test_export.py::test_all[a b]", task "export-4711",
               thread "MainThread", request=r-17,
               pid 4242 (python app.py) on web1
  now:         the task is at shop/orders.py:95 in send
               called from shop/web.py:31 in handler
  held for:    71.5 s
  state:       running a statement
  pool:        "main" (sqlalchemy), 3 connections open
  why:         Held for 71.5 s, longer than the 60.0 s that a checkout may last
               here.
  fix:         Give the connection back before the slow part."""


def test_a_dropped_checkout_reads_like_this() -> None:
    """The golden text: verdict and line first, then the way there, the owner, the connection, and the advice last."""
    assert render_leak(make_leak()) == DROPPED


def test_a_slow_task_reads_like_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden text of a suspicion: the owner is alive, and the report says where it is."""
    monkeypatch.setattr(phrases, "duration", lambda seconds: f"{seconds} s")
    owner = make_owner(
        thread="MainThread",
        task="export-4711",
        test="tests/test_export.py::test_all[a b]",
        labels={"request": "r-17"},
    )
    hold = make_hold(
        library="sqlalchemy",
        operation="connect",
        site=make_site(code="async with engine.connect() as conn:"),
        owner=owner,
        held_for=71.5,
        last_used_at=None,
        statements=None,
        last_statement=None,
        server=None,
        state="active",
    )
    here = Frame(file="/srv/shop/orders.py", line=95, function="send", app=True)
    library = Frame(file="/venv/lib/python3.11/selectors.py", line=1, function="select", app=False)
    leak = make_leak(
        kind="overdue",
        certain=False,
        count=1,
        hold=hold,
        pool=make_pool(library="sqlalchemy", created_at=None, capacity=None),
        now=Now(owner="running", stack=(library, here, make_stack()[2])),
        reason="Held for 71.5 s, longer than the 60.0 s that a checkout may last here.",
        advice="Give the connection back before the slow part.",
    )
    assert render_leak(leak) == SLOW_TASK


def test_an_exhausted_pool_reads_like_this() -> None:
    """The golden text: one line a place, each with a path that can be followed."""
    assert render_event(make_exhausted()) == EXHAUSTED


def test_a_repeated_exhaustion_says_how_often() -> None:
    """The events of a flood are folded, their number is not lost."""
    assert render_event(make_exhausted(count=7)).splitlines()[0] == (
        'EXHAUSTED pool "main": 15 of 16 held by this process, 1 slot lost  x7'
    )


def test_a_recovery_is_one_line() -> None:
    """Good news is short, and says how long it took."""
    assert render_event(make_recovered()) == (
        "RECOVERED overdue checkout came back after 1m11s  8f21c0a4d9e1  shop/orders.py:88"
    )


def test_a_summary_is_one_line() -> None:
    """The counts, what was found, and a request where leakguard itself failed."""
    assert render_event(make_summary(internal_errors=1)) == (
        "summary of pid 4242 (python app.py) on web1: 100 acquired, 96 released, 1 still held, 3 garbage-collected; "
        "found: 3 dropped; 1 internal error of leakguard, please report"
    )


@pytest.mark.parametrize("leaks", [{}, {"dropped": 0}])
def test_a_clean_summary_is_silent(leaks: dict[str, int]) -> None:
    """Nobody wants to read at every exit that all is well."""
    assert render_event(make_summary(leaks=leaks)) == ""


# ---------------------------------------------------------------------------------------------------- verdict, place


@pytest.mark.parametrize(
    ("kind", "certain", "verdict"),
    [
        ("dropped", True, "LEAK"),
        ("orphaned", True, "LEAK"),
        ("lost_slot", True, "LEAK"),
        ("unclosed_pool", True, "LEAK"),
        ("outstanding", True, "LEAK"),
        ("outstanding", False, "SUSPECT"),
        ("overdue", False, "SUSPECT"),
        ("idle_in_transaction", False, "SUSPECT"),
        ("nested_acquire", False, "ADVICE"),
    ],
)
def test_the_verdict_says_how_sure_it_is(kind: Kind, certain: bool, verdict: str) -> None:
    """Proof, suspicion and advice are told apart by the first word."""
    assert render_leak(make_leak(kind=kind, certain=certain)).startswith(f"{verdict} ")


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_line_names_the_kind_as_the_documentation_does(kind: Kind) -> None:
    """Whoever looks a word up in the documentation finds it."""
    assert kind.replace("_", " ") in render_leak(make_leak(kind=kind)).splitlines()[0]


@pytest.mark.parametrize(
    ("boundary", "words"),
    [
        ("test", "after the test"),
        ("no_leaks", "after no_leaks()"),
        ("exit", "at exit"),
        (None, "outstanding connection  "),
    ],
)
def test_an_outstanding_hold_names_its_boundary(boundary: str | None, words: str) -> None:
    """Still held when what ended?"""
    assert words in render_leak(make_leak(kind="outstanding", boundary=boundary))


@pytest.mark.parametrize(
    ("cwd", "file", "shown"),
    [
        ("/srv", "/srv/shop/orders.py", "shop/orders.py:88"),
        ("/srv/shop", "/srv/shop/orders.py", "orders.py:88"),
        ("/srv/sho", "/srv/shop/orders.py", "/srv/shop/orders.py:88"),
        ("/elsewhere", "/srv/shop/orders.py", "/srv/shop/orders.py:88"),
        ("/", "/srv/shop/orders.py", "/srv/shop/orders.py:88"),
        ("/srv", "<stdin>", "<stdin>:88"),
        ("/srv", "/srv/two  blanks/a.py", "two  blanks/a.py:88"),
    ],
)
def test_a_path_can_be_followed(monkeypatch: pytest.MonkeyPatch, cwd: str, file: str, shown: str) -> None:
    """Relative below the working directory, absolute elsewhere, and always ``file:line`` in one piece."""
    monkeypatch.setattr(os, "getcwd", lambda: cwd)
    leak = make_leak(site=make_site(file=file))
    assert render_leak(leak).splitlines()[0].endswith(f"  {shown}")


def test_a_removed_working_directory_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is nothing to be relative to."""

    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)
    assert "/srv/shop/orders.py:88" in render_leak(make_leak())


def test_without_a_site_the_stack_is_all_there_is_to_see() -> None:
    """A bare create_task(pool.getconn()) has no application frame: the text says so, and why."""
    hold = make_hold(site=None, stack=make_stack()[:1])
    lines = render_leak(make_leak(hold=hold, reason="No frame of yours: the task was made from it.")).splitlines()
    assert lines[0].endswith("  (no application frame)")
    assert lines[1] == "  no application frame on the stack (by psycopg_pool getconn)"
    assert lines[2] == "  stack:       /venv/lib/python3.11/site-packages/psycopg_pool/pool.py:191 in getconn"
    assert "  why:         No frame of yours: the task was made from it." in lines


def test_a_leak_of_a_pool_shows_where_the_pool_was_created() -> None:
    """There is no hold, so no owner, no state and no server."""
    site = make_site(file="/srv/shop/db.py", line=4, function="connect", code="engine = create_engine(url)")
    leak = make_leak(kind="unclosed_pool", hold=None, site=site, pool=make_pool(created_at=site))
    lines = render_leak(leak).splitlines()
    assert lines[:4] == [
        "LEAK unclosed pool  8f21c0a4d9e1  x3  shop/db.py:4",
        "  in connect, where the pool was created:",
        "      engine = create_engine(url)",
        "               ~~~~~~~~~~~~~~~~~~",
    ]
    assert lines[4] == '  pool:        "main" (psycopg_pool), 3 of 4 connections open'
    assert not any(line.startswith(("  owner", "  now", "  state", "  server")) for line in lines)


def test_a_site_without_source_still_names_its_function() -> None:
    """A file that is no longer there has no line to show."""
    lines = render_leak(make_leak(site=make_site(code=None))).splitlines()
    assert lines[1] == "  in export_orders, by psycopg_pool getconn"


def test_all_frames_shows_the_libraries_too() -> None:
    """For whoever has to look into the library."""
    block = render_leak(make_leak(), all_frames=True)
    assert "  stack:       /venv/lib/python3.11/site-packages/psycopg_pool/pool.py:191 in getconn\n" in block
    assert "hidden" not in block


def test_a_recursion_does_not_bury_the_report() -> None:
    """The callers are cut, and the cut is said."""
    stack = tuple(Frame(file="/srv/shop/tree.py", line=n, function="walk", app=True) for n in range(500))
    block = render_leak(make_leak(hold=make_hold(stack=stack)))
    assert block.count("in walk") == layout.FRAMES_SHOWN
    assert f"({500 - layout.FRAMES_SHOWN} more frames)" in block


# --------------------------------------------------------------------------------------------------- owner and state


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (Now(owner="ended", stack=()), "  now:         the task has ended"),
        (Now(owner="running", stack=()), "  now:         the task is still running"),
        (
            Now(owner="running", stack=make_stack()[:1]),
            "  now:         the task is at /venv/lib/python3.11/site-packages/psycopg_pool/pool.py:191 in getconn",
        ),
        (Now(owner="unknown", stack=()), None),
    ],
)
def test_where_the_owner_is_now(now: Now, line: str | None) -> None:
    """Ended, running at a line (a library's, where it has none of its own), or not known and so not said."""
    lines = render_leak(make_leak(now=now, hold=make_hold(owner=make_owner(task="export")))).splitlines()
    assert (line in lines) if line is not None else not any("now:" in other for other in lines)


@pytest.mark.parametrize(
    ("server", "shown"),
    [
        (make_server(host="::1", user=None, client_port=None), "backend pid 991, [::1]:5432/shop"),
        (make_server(host="/run/pg", backend_pid=None, client_port=None), "/run/pg:5432/shop, user app"),
        (make_server(host=None, port=None, dbname=None, user=None, client_port=None), "backend pid 991"),
    ],
)
def test_the_server_is_shown_as_far_as_it_is_known(server: Any, shown: str) -> None:
    """TCP, a socket's directory, or the backend alone."""
    assert f"  server:      {shown}" in render_leak(make_leak(hold=make_hold(server=server))).splitlines()


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"open": None}, '"main" (psycopg_pool), capacity 4'),
        ({"open": None, "capacity": None}, '"main" (psycopg_pool)'),
        ({"open": 1, "capacity": None}, '"main" (psycopg_pool), 1 connection open'),
    ],
)
def test_the_pool_is_shown_as_far_as_it_is_known(changes: dict[str, Any], shown: str) -> None:
    """Without a limit, or without numbers at all."""
    pool = make_pool(created_at=None, **changes)
    assert f"  pool:        {shown}" in render_leak(make_leak(pool=pool)).splitlines()


def test_a_direct_connection_has_no_pool_line() -> None:
    """Nothing is said about what does not exist."""
    hold = make_hold(pool=None, library="psycopg", operation="connect", state="unknown")
    block = render_leak(make_leak(pool=None, hold=hold))
    assert "pool:" not in block
    assert "state:" not in block


# ------------------------------------------------------------------------------------------------------- the marker


@pytest.mark.parametrize(
    ("code", "operation", "marked"),
    [
        ("conn = pool.getconn()", "getconn", "pool.getconn()"),
        ("conn = pool.getconn()", "ConnectionPool.getconn", "pool.getconn()"),
        ("conn = await pool.getconn(timeout=3)", "getconn", "pool.getconn(timeout=3)"),
        ("self.conns.append(pool.getconn())", "getconn", "pool.getconn()"),
        ("return wrap(connect(dsn), retry=make())", "connect", "connect(dsn)"),
        ("with pool.connection() as conn:", "connection", "pool.connection()"),
        ("async with engine.connect() as conn, conn.begin():", "connect", "engine.connect()"),
        ("if (conn := pool.getconn()):", "getconn", "pool.getconn()"),
        ("conn = pool.getconn(", "getconn", "pool.getconn("),
        ("try: conn = pool.getconn()", "getconn", "pool.getconn()"),
        ("rows = session.execute(select(Order)).all()", "connect", "session.execute(select(Order)).all()"),
        ("größe, conn = name(), pool.getconn()", "getconn", "pool.getconn()"),
        ("conn = connect(password=***)", "connect", "connect(password=***)"),
        # Which of them it was cannot be told: the whole line.
        ("a, b = pool.getconn(), pool.getconn()", "getconn", "a, b = pool.getconn(), pool.getconn()"),
        ("a, b = first(), second()", "getconn", "a, b = first(), second()"),
        ("session.order", "connect", "session.order"),
        (".getconn()", "getconn", ".getconn()"),
        ("elif conn := pool.getconn():", "getconn", "elif conn := pool.getconn():"),
        (r"conn = connect('\d')", "connect", r"conn = connect('\d')"),
        ("(" * 190 + "f", "f", "(" * 190 + "f"),
        ("x = connect(" + "1, " * 100 + ")", "connect", "x = connect(" + "1, " * 100 + ")"),
        ("nul = f(\x00)", "f", "nul = f(\x00)"),
    ],
)
def test_the_marker_stands_under_the_call(code: str, operation: str, marked: str) -> None:
    """Under the call that acquired where one line can tell, under the whole line where it cannot."""
    start, end = call_span(code, operation)
    assert code[start:end] == marked


def test_looking_for_the_call_warns_of_nothing(recwarn: pytest.WarningsRecorder) -> None:
    """The parser must not print a SyntaxWarning about the application's own code."""
    call_span(r'connect("\d")', "connect")
    assert len(recwarn) == 0


# ----------------------------------------------------------------------------------------------------- many at once


def test_several_leaks_are_counted_and_folded() -> None:
    """How many at how many places first; then one block a fingerprint, with its own count."""
    other = make_leak(fingerprint="a03b77c15e20", kind="overdue", certain=False)
    report = render_leaks([other, make_leak(count=7), make_leak(count=8)])
    head, first, second = report.split("\n\n")
    assert head == "2 leaks, 1 suspicion, 2 places"
    assert first.startswith(f"LEAK dropped connection  {FINGERPRINT}  x2  ")
    assert second.startswith("SUSPECT overdue checkout  a03b77c15e20  x1  ")


def test_a_block_speaks_for_its_worst_kind_and_names_the_others() -> None:
    """A suspicion and its proof are one place."""
    report = render_leaks([make_leak(kind="overdue", certain=False), make_leak(reason="Proof.")])
    assert report.startswith("1 leak, 1 suspicion, 1 place\n\nLEAK dropped connection  8f21c0a4d9e1  x1  ")
    lines = report.splitlines()
    assert "  also here:   overdue x1" in lines
    assert "  why:         Proof." in lines
    assert lines[-2].startswith("  fix:")


@pytest.mark.parametrize(
    ("leaks", "head"),
    [
        ([make_leak()], "1 leak, 1 place"),
        ([make_leak()] * 2, "2 leaks, 1 place"),
        ([make_leak(kind="overdue", certain=False)], "1 suspicion, 1 place"),
        ([], "0 leaks"),
    ],
)
def test_the_count_comes_first(leaks: list[Leak], head: str) -> None:
    """Singular, plural and nothing."""
    assert render_leaks(leaks).partition("\n")[0] == head


def test_a_long_list_of_holders_is_cut() -> None:
    """What is left out is counted."""
    groups = tuple(
        HolderGroup(fingerprint=f"{n:012}", count=2, oldest=1.0, site=make_site(line=n) if n else None)
        for n in range(events.HOLDERS_SHOWN + 3)
    )
    lines = render_event(make_exhausted(holders=groups)).splitlines()
    assert lines[2].startswith("  held at:     x2 (no application frame), oldest 1.0 s")
    assert lines[-1] == "               (6 more at 3 other places)"


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("server", "EXHAUSTED the server has no connection slot left: 2 held by this process"),
        ("reserved", "EXHAUSTED the server's last connection slots are reserved: 2 held by this process"),
        ("role", "EXHAUSTED the role is at its connection limit: 2 held by this process"),
        ("database", "EXHAUSTED the database is at its connection limit: 2 held by this process"),
        ("pooler", "EXHAUSTED the connection pooler has no connection left: 2 held by this process"),
    ],
)
def test_every_shortage_says_what_has_run_out(cause: str, words: str) -> None:
    """A full server is told from a pool that leaked dry."""
    event = make_exhausted(cause=cause, pool=None, capacity=None, held=2, lost=0, holders=())
    lines = render_event(event).splitlines()
    assert lines[0] == words
    assert lines[-1] == "  held at:     no place that leakguard has seen"


# ------------------------------------------------------------------------------------------------- width and safety


EVENTS: list[Event] = [make_leak(), make_leak(hold=None), make_recovered(), make_exhausted(), make_summary()]


def test_a_block_fits_eighty_columns() -> None:
    """Ordinary paths and names fit a terminal."""
    assert max(map(len, render_leak(make_leak()).splitlines())) <= 80


def test_sentences_wrap_at_the_given_width_but_paths_never_do() -> None:
    """A wrapped path cannot be clicked."""
    file = "/srv/" + "deep/" * 30 + "orders.py"
    block = render_leak(make_leak(site=make_site(file=file)), width=50)
    assert f"  {file.removeprefix('/srv/')}:88" in block.splitlines()[0]
    assert max(len(line) for line in block.splitlines() if "the pool has" in line or "lost" in line) <= 50


def test_code_in_a_sentence_is_never_wrapped() -> None:
    """Advice is copied from here."""
    block = render_leak(make_leak(advice="Give it back before: `with pool.connection() as conn:`, or else."), width=60)
    assert block.endswith(
        "  fix:         Give it back before:\n               `with pool.connection() as conn:`, or else."
    )


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.event)
def test_our_own_words_are_ascii(event: Event) -> None:
    """No box drawing: the text must survive any log."""
    assert render_event(event).isascii()


def test_hostile_names_are_inert() -> None:
    """Escape sequences, line breaks and direction overrides in names are shown, not obeyed."""
    evil = "\x1b[2Jx\n\u202ey\x9b"
    owner = make_owner(thread=evil, task=evil, test=evil, labels={evil: evil}, process=evil, host=evil)
    site = make_site(file=evil, function=evil, code=evil)
    stack = (*make_stack(), Frame(file=evil, line=1, function=evil, app=True))
    hold = make_hold(
        owner=owner,
        site=site,
        stack=stack,
        library=evil,
        operation=evil,
        pool=evil,
        last_statement=evil,
        server=make_server(host=evil, dbname=evil, user=evil),
    )
    pool = make_pool(name=evil, library=evil, created_at=site)
    leak = make_leak(
        hold=hold, pool=pool, reason=evil, advice=evil, fingerprint=evil, now=Now(owner="running", stack=stack)
    )
    group = HolderGroup(fingerprint=evil, count=1, oldest=1.0, site=site)
    events: list[Event] = [
        leak,
        make_leak(hold=None, pool=pool, reason=evil, advice=evil, fingerprint=evil),
        make_recovered(hold=hold, fingerprint=evil),
        make_exhausted(pool=evil, error=evil, holders=(group,)),
        make_summary(process=evil, host=evil, leaks={evil: 1}),
    ]
    for event in events:
        for line in render_event(event, all_frames=True).split("\n"):
            assert line.isprintable()
            assert not line.startswith("x")


def test_endless_texts_are_cut() -> None:
    """An event that was read from a file may hold megabytes."""
    long = "x" * 1_000_000
    hold = make_hold(last_statement=long, owner=make_owner(thread=long))
    assert len(render_leak(make_leak(hold=hold, reason=long, advice=long))) < 20_000


@pytest.mark.parametrize("event", EVENTS[:1] + EVENTS[2:4], ids=lambda event: event.event)
def test_colour_is_for_the_verdict_alone(event: Event) -> None:
    """One coloured word; without it, the text is the same."""
    colored = render_event(event, color=True)
    assert colored.count("\x1b[") == 2
    before, _, rest = colored.partition("\x1b[0m")
    assert before.partition("m")[2] + rest == render_event(event)


# ----------------------------------------------------------------------------------------------------- the reporter


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_reporter_writes_one_block_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of several threads must not mingle."""
    stream = io.StringIO()
    writes: list[str] = []
    monkeypatch.setattr(stream, "write", writes.append)
    TextReporter(stream).report(make_leak())
    assert writes == [f"leakguard: {DROPPED}\n"]


def test_the_reporter_follows_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever replaces sys.stderr after the installation gets the text."""
    reporter = TextReporter()
    reporter.report(make_recovered())
    assert capsys.readouterr().err.startswith("leakguard: RECOVERED ")
    replaced = io.StringIO()
    monkeypatch.setattr(sys, "stderr", replaced)
    reporter.report(make_recovered())
    assert replaced.getvalue().startswith("leakguard: RECOVERED ")


def test_the_reporter_is_silent_where_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line for a clean summary, and no failure without a standard error."""
    stream = io.StringIO()
    TextReporter(stream).report(make_summary(leaks={}))
    assert stream.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", None)
    TextReporter().report(make_leak())


@pytest.mark.parametrize(
    ("stream", "environment", "color", "expected"),
    [
        pytest.param(Terminal, {}, None, True, id="terminal"),
        pytest.param(io.StringIO, {}, None, False, id="file"),
        pytest.param(Terminal, {"NO_COLOR": "1"}, None, False, id="no_color"),
        pytest.param(Terminal, {"NO_COLOR": ""}, None, True, id="empty no_color"),
        pytest.param(Terminal, {"TERM": "dumb"}, None, False, id="dumb"),
        pytest.param(io.StringIO, {"NO_COLOR": "1"}, True, True, id="asked for"),
        pytest.param(Terminal, {}, False, False, id="declined"),
    ],
)
def test_the_reporter_colours_terminals(
    monkeypatch: pytest.MonkeyPatch,
    stream: type[io.StringIO],
    environment: dict[str, str],
    color: bool | None,
    expected: bool,
) -> None:
    """A terminal, unless NO_COLOR says no; the argument beats both."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    target = stream()
    TextReporter(target, color).report(make_leak())
    assert ("\x1b[" in target.getvalue()) is expected


def test_a_stream_with_a_poor_encoding_gets_escapes() -> None:
    """A thread named in Greek does not make an ASCII log raise."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    TextReporter(stream).report(make_leak(hold=make_hold(owner=make_owner(thread="εργάτης"))))
    assert b'thread "\\u03b5' in raw.getvalue()


# ----------------------------------------------------------------------------------------------- advice from the source


def leak_at(file: Path, code: str, **changes: Any) -> Leak:
    """A leak of the second line of this file."""
    site = make_site(file=str(file), line=2, function="f", code=code)
    return make_leak(hold=make_hold(site=site, stack=()), **changes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A function that forgets its connection."""
    file = tmp_path / "orders.py"
    file.write_text("def f(pool):\n    conn = pool.getconn()\n    conn.execute('x')\n")
    return file


def test_the_source_says_what_is_wrong_with_the_line(source: Path) -> None:
    """In place of the general advice, with the line to write instead."""
    lines = render_leak(leak_at(source, "conn = pool.getconn()"), kept_by="a cache").splitlines()
    assert lines[-3:] == [
        "  fix:         `conn` is taken without `with`, and nothing in f() gives it back.",
        "  kept by:     a cache",
        "  instead:     with pool.connection() as conn:",
    ]


@pytest.mark.parametrize("kind", ["idle_in_transaction", "nested_acquire"])
def test_another_way_to_acquire_is_no_cure_for_these(source: Path, kind: Kind) -> None:
    """A transaction that idles, and an acquire too many, need something else."""
    text = render_leak(leak_at(source, "conn = pool.getconn()", kind=kind, certain=False))
    assert "instead:" not in text
    assert "fix:         Acquire it as" in text


def test_a_file_that_has_changed_says_nothing(source: Path) -> None:
    """The line that ran is not the one that is there; nor is there any without a file."""
    general = "fix:         Acquire it as"
    assert general in render_leak(leak_at(source, "conn = pool.getconn(timeout=1)"))
    assert general in render_leak(leak_at(source.with_name("gone.py"), "conn = pool.getconn()"))
    assert general in render_leak(make_leak(site=None))


def test_a_pool_is_cured_where_it_is_created(tmp_path: Path) -> None:
    """There is no hold then, but a line."""
    file = tmp_path / "db.py"
    file.write_text("def f():\n    engine = create_engine(URL)\n    engine.connect()\n")
    site = make_site(file=str(file), line=2, function="f", code="engine = create_engine(URL)")
    pool = make_pool(library="sqlalchemy", created_at=site)
    text = render_leak(make_leak(kind="unclosed_pool", hold=None, site=site, pool=pool))
    assert "instead:" in text
