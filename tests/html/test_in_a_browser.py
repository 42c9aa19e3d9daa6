"""The page in a real browser: drawn, searched, chosen, by pointer and by keyboard, in both themes and at two widths."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from leakguard.html import render_snapshots
from leakguard.model import Event
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
from tests.html.conftest import Open, Report
from tests.html.snapshots import crowd, make_snapshot
from tests.html.test_builders import hostile_events

pytestmark = pytest.mark.slow

DAILY = "a03b77c15e20"
X = "\N{MULTIPLICATION SIGN}"
BASELINE = f'version = 1\n[[leak]]\nfingerprint = "{FINGERPRINT}"\nmax = 3\nreason = "to be ported"\n'


def story() -> list[Event]:
    """Two places of one pool that runs dry: one leaks, one is slow."""
    slow = make_hold(
        id=50,
        acquired_at=later(-3),
        held_for=3.0,
        site=make_site(file="/srv/shop/report.py", line=17, function="daily", code="with pool.connection() as conn:"),
        owner=make_owner(thread="reports", labels={"request": "r-9"}),
        stack=(),
    )
    dropped = [
        make_leak(
            count=number, time=later(number), hold=make_hold(id=number, acquired_at=later(number - 2), held_for=2.0)
        )
        for number in (1, 2, 3)
    ]
    return [
        *dropped,
        make_leak(kind="overdue", certain=False, fingerprint=DAILY, hold=slow, count=1, advice="Be `quick`."),
        make_exhausted(time=later(4)),
        make_recovered(fingerprint=DAILY, hold=slow, held_for=9.0, time=later(6)),
        make_summary(time=later(10)),
    ]


def rows(tab) -> list[str]:
    """What the list shows, a row a string, on one line each."""
    return [" ".join(row.split()) for row in tab.texts("#list [role=option]")]


def chosen(tab) -> str:
    """The heading of the details."""
    return tab.text("#detail h3")


def test_the_page_says_what_the_text_report_says(report: Report, show: Open) -> None:
    """How much, each place with its counts, and the worst of them unfolded."""
    tab = show(report(*story()))
    assert tab.text("h1") == "3 leaks, 1 suspicion, 2 places; no connection left 1 time; 1 process"
    assert rows(tab) == [
        f"leak dropped {X}3 /srv/shop/orders.py:88 2.0 s conn = pool.getconn()",
        f"suspect overdue {X}1 /srv/shop/report.py:17 3.0 s with pool.connection() as conn:",
    ]
    detail = tab.text("#detail")
    for words in (
        "in export_orders, by psycopg_pool getconn, fingerprint 8f21c0a4d9e1",
        "Acquire it as with pool.connection() as conn:, so that every way out gives it back.",
        "/srv/shop/web.py:31 in handler",
        "3 reported one by one",
        "backend pid 991, 10.0.0.5:5432/shop, user app, client port 51234",
        "the thread has ended",
    ):
        assert words in detail
    assert "site-packages" not in detail
    assert tab.text("mark") == "pool.getconn()"


def test_the_file_asks_nobody_for_anything(report: Report, show: Open) -> None:
    """It is one file, opened from a disk; its policy would refuse any request."""
    page = report(*story())
    tab = show(page)
    assert tab.requests() == [page.as_uri()]
    refused = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
    assert tab.evaluate(refused) == "refused"
    assert [words for words in tab.complaints() if "Content Security Policy" in words]
    tab.expect("Content Security Policy")


def test_a_click_shows_another_place(report: Report, show: Open) -> None:
    """And its address leads there again."""
    page = report(*story())
    tab = show(page)
    tab.click("#list [data-at='1']")
    assert chosen(tab) == "/srv/shop/report.py:17"
    assert tab.text("#detail .say code") == "quick"
    assert "came back" in tab.text("#detail")
    assert tab.evaluate("location.hash") == f"#{DAILY}"
    assert chosen(show(f"{page.as_uri()}#{DAILY}")) == "/srv/shop/report.py:17"


def test_frames_of_libraries_are_folded(report: Report, show: Open) -> None:
    """One click away."""
    tab = show(report(*story()))
    tab.click("#detail details summary")
    assert "site-packages/psycopg_pool/pool.py:191 in getconn" in tab.text("#detail")


def test_a_chart_shows_the_pool_its_limit_and_when_it_was_dry(report: Report, show: Open) -> None:
    """Held by place, lost slots, the limit as a line, a cross; and the same in words."""
    tab = show(report(*story()))
    assert tab.text("figcaption") == "main pid 4242 (python app.py) on web1"
    assert tab.text(".limit-word") == "limit 16"
    assert len(tab.texts(".cross")) == 1
    assert tab.texts(".key") == ["/srv/shop/orders.py:88 export_orders", "/srv/shop/report.py:17 daily"]
    assert "no connection left 1 time, 12:00:04 UTC: couldn't get a connection after 1.00 sec" in tab.text(".shortage")
    assert "Then held: 15 of 16, 1 slot lost." in tab.text(".shortage")
    # The layers do not overlap, and none is empty: each has a size of its own.
    sizes = tab.evaluate("[...document.querySelectorAll('path.area')].map((one) => one.getBBox().height)")
    assert len(sizes) >= 3
    assert min(sizes) > 0


def test_the_chart_tells_each_moment(report: Report, show: Open) -> None:
    """To the pointer, and to the keyboard and a screen reader."""
    tab = show(report(*story()))
    x, y, width = tab.evaluate(
        "(({x, y, width}) => [x, y, width])(document.querySelector('.chart svg').getBoundingClientRect())"
    )
    tab.move(x + 42 + (width - 50) * 0.999, y + 60)
    assert f"3 lost {X} /srv/shop/orders.py:88 export_orders" in tab.text(".tip")
    tab.evaluate("document.querySelector('.chart').focus()")
    tab.press("Home")
    first = tab.evaluate("document.querySelector('.chart').getAttribute('aria-valuetext')")
    tab.press("End")
    last = tab.evaluate("document.querySelector('.chart').getAttribute('aria-valuetext')")
    assert "export_orders" in first
    assert first != last
    tab.press("Home", "Enter")
    assert chosen(tab) == "/srv/shop/orders.py:88"


def test_the_legend_leads_to_the_place(report: Report, show: Open) -> None:
    """Even when a filter hides it."""
    tab = show(report(*story()))
    tab.click(".choice.suspect")
    assert len(rows(tab)) == 1
    tab.evaluate("document.querySelectorAll('.key')[1].click()")
    assert chosen(tab) == "/srv/shop/report.py:17"
    assert len(rows(tab)) == 2


def test_search_finds_places_and_single_holds(report: Report, show: Open) -> None:
    """Every word has to be there, in the place or in one hold; then those holds alone are shown."""
    tab = show(report(*story()))
    tab.evaluate("document.getElementById('query').focus()")
    tab.type("DAILY r-9")
    tab.wait("document.getElementById('matches').textContent === '1 of 2 places'")
    assert chosen(tab) == "/srv/shop/report.py:17"
    tab.evaluate("document.getElementById('query').select()")
    tab.type("export 11:59:59")
    tab.wait("document.getElementById('matches').textContent === '0 of 2 places'")
    assert tab.text("#detail") == "No place matches."
    tab.evaluate("document.getElementById('query').select()")
    tab.type("orders.py 12:00:02")
    tab.wait("document.getElementById('matches').textContent === '1 of 2 places'")
    assert "1 of 3 holds matches" in tab.text("#detail")


def test_filters_hide_what_is_not_wanted(report: Report, show: Open, tmp_path: Path) -> None:
    """By verdict, and with a baseline by what is new."""
    known = tmp_path / "known.toml"
    known.write_text(BASELINE)
    tab = show(report(*story(), options=("--baseline", known)))
    assert tab.text("h1").startswith("3 leaks, 1 suspicion, 2 places, 1 of them known;")
    assert rows(tab)[1].startswith(f"leak dropped {X}3 known")
    tab.click("#list [data-at='1']")
    assert "the baseline has at most 3: to be ported" in tab.text("#detail")
    tab.click(".choice.known")
    assert [row.split()[0] for row in rows(tab)] == ["suspect"]
    tab.click(".choice.suspect")
    assert tab.text("#detail") == "No place matches."
    tab.click(".choice.suspect")
    assert tab.evaluate("document.querySelector('.choice.known').getAttribute('aria-pressed')") == "false"


def test_places_are_sorted(report: Report, show: Open) -> None:
    """Worst first, or by number, time or age."""
    tab = show(report(*story()))
    for order, first in (("longest", "suspect"), ("count", "leak"), ("last", "leak"), ("worst", "leak")):
        tab.evaluate(
            f"(() => {{ const one = document.getElementById('sort'); one.value = '{order}';"
            "one.dispatchEvent(new Event('change')); })()"
        )
        assert rows(tab)[0].split()[0] == first


def test_the_keyboard_reaches_everything(report: Report, show: Open) -> None:
    """Slash to search, down into the list, arrows through it, on into the table of holds, and back."""
    tab = show(report(*story()))
    active = "document.activeElement.id"
    tab.press("/")
    assert tab.evaluate(active) == "query"
    assert tab.evaluate("document.getElementById('query').value") == ""
    tab.press("ArrowDown")
    assert tab.evaluate(active) == "list"
    tab.press("ArrowDown")
    assert chosen(tab) == "/srv/shop/report.py:17"
    marked = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant')).ariaSelected"
    assert tab.evaluate(marked) == "true"
    tab.press("Home")
    assert chosen(tab) == "/srv/shop/orders.py:88"
    for _ in range(8):
        tab.press("Tab")
        if tab.evaluate(active) == "holds":
            break
    assert tab.evaluate(active) == "holds"
    before = tab.text(".one")
    tab.press("End")
    assert tab.text(".one") != before
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Escape")
    assert tab.evaluate(active) == "list"


def luminance(tab, selector: str, what: str) -> float:
    """How light the colour of an element is, from 0 to 1."""
    return tab.evaluate(
        f"(() => {{ const [r, g, b] = getComputedStyle(document.querySelector('{selector}')).{what}.match(/[0-9.]+/g);"
        "return (0.3 * r + 0.59 * g + 0.11 * b) / 255; })()"
    )


def test_both_themes(report: Report, show: Open) -> None:
    """As the system prefers, until the button says otherwise; and that choice stays."""
    page = report(*story())
    light, dark = show(page), show(page, dark=True)
    for tab, is_dark in ((light, False), (dark, True)):
        assert (luminance(tab, "html", "backgroundColor") < 0.2) is is_dark
        assert abs(luminance(tab, "html", "color") - luminance(tab, "html", "backgroundColor")) > 0.7
    light.click("#theme")
    assert light.text("#theme") == "Theme: light"
    light.click("#theme")
    assert luminance(light, "html", "backgroundColor") < 0.2
    again = show(page)
    assert luminance(again, "html", "backgroundColor") < 0.2
    again.evaluate("localStorage.clear()")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_sticks_out(report: Report, show: Open, width: int) -> None:
    """On a telephone too, the page itself never scrolls sideways."""
    tab = show(report(*story()), width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.click("#list [data-at='1']")
    assert chosen(tab) == "/srv/shop/report.py:17"
    if width < 880:
        assert tab.evaluate("document.activeElement.id") == "detail"
        assert tab.evaluate("document.getElementById('detail').getBoundingClientRect().top") < 200


def test_hostile_strings_are_inert(report: Report, show: Open) -> None:
    """Markup in a name is text, a control character an escape; nothing runs, nothing is loaded."""
    page = report(*hostile_events())
    tab = show(page)
    assert tab.requests() == [page.as_uri()]
    assert tab.evaluate("document.querySelectorAll('img, iframe, object, #detail script, #plain').length") == 0
    assert tab.evaluate("document.scripts.length") == 2
    detail = tab.text("#detail")
    assert "</script><script>alert(1)</script><!--\\u202e\\u2028\\x00\\udc80" in detail
    assert "{{ 7 * 7 }}" in detail
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1280
    tab.press("/")
    tab.type("<img")
    tab.wait("document.getElementById('matches').textContent === '1 place'")


def test_right_to_left_names_move_nothing(report: Report, show: Open) -> None:
    """A Hebrew thread's name stands where it belongs; what follows it in the line stays behind it."""
    owner = make_owner(thread="עובד", labels={"לקוח": "7"})
    tab = show(report(make_leak(hold=make_hold(owner=owner))))
    assert 'thread "עובד"' in tab.text("#detail")
    assert tab.evaluate(
        "[...document.querySelectorAll('#detail bdi')].every((one) => getComputedStyle(one).unicodeBidi === 'isolate')"
    )


def test_without_script_there_is_a_list(report: Report, show: Open) -> None:
    """A CI server may serve the file in a sandbox that runs none."""
    page = report(*story(), *hostile_events())
    tab = show(page, script=False)
    text = " ".join(tab.text("#plain").split())
    assert "leak /srv/shop/orders.py:88" in text
    assert f"dropped {X}3; fingerprint 8f21c0a4d9e1" in text
    assert "/srv/shop/web.py:31 in handler" in text
    assert "<script>alert(1)" in text
    assert not tab.evaluate("document.getElementById('app').offsetParent")


def test_nothing_found_is_said(report: Report, show: Open) -> None:
    """An empty file is good news."""
    tab = show(report())
    assert tab.text("h1") == "0 leaks; 0 processes"
    assert tab.text("#detail") == "Nothing was found."
    assert tab.evaluate("document.getElementById('timelines').hidden")


# ---------------------------------------------------------------------------------------------- running processes, many


def test_a_running_process(show: Open, tmp_path: Path) -> None:
    """What is held now, what keeps it alive, what to write instead, and how full the pool is."""
    page = tmp_path / "dump.html"
    page.write_text(render_snapshots([make_snapshot()]))
    tab = show(page)
    assert tab.text("h1") == "2 connections held now; found so far: 3 leaks, 1 place"
    assert tab.text("#about") == "pid 4242 (python app.py) on web1, as of 2026-01-31 12:00:00 UTC"
    assert rows(tab)[1].startswith(f"held now {X}1")
    assert tab.text(".kept") == "global shop.orders.PENDING\n  [3]: psycopg.Connection"
    assert tab.text(".cure") == "with pool.connection() as conn:"
    tab.click("figure summary")
    assert "2 held, 1 idle, 3 open, 1 slot lost for good, 1 acquire waiting, 4 acquires timed out so far" in tab.text(
        "figure"
    )
    tab.click("#list [data-at='1']")
    tab.evaluate("[...document.querySelectorAll('#detail summary')].at(-1).click()")
    assert "/srv/shop/web.py:40 in upload" in tab.text(".one .stack")
    assert not tab.evaluate("document.getElementById('pause').offsetParent")


@pytest.mark.parametrize("places", [50, 10_000])
def test_ten_thousand_holds_are_usable(show: Open, tmp_path: Path, places: int) -> None:
    """Opened in a moment, searched in less, scrolled to the end; at few places or at as many."""
    page = tmp_path / "dump.html"
    page.write_text(render_snapshots([crowd(10_000, places)]))
    tab = show(page)
    opened = tab.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
    searched = tab.evaluate(
        """new Promise((done) => {
            const began = performance.now(), query = document.getElementById("query");
            new MutationObserver(() => done(performance.now() - began))
                .observe(document.getElementById("matches"), { childList: true });
            query.value = "r-9999";
            query.dispatchEvent(new Event("input"));
        })"""
    )
    assert tab.text("#matches").startswith("1 of ")
    assert "request=r-9999" in tab.text("#detail")
    assert tab.evaluate("document.querySelectorAll('*').length") < 2_000
    tab.evaluate("document.getElementById('query').value = ''")
    tab.evaluate("document.getElementById('query').dispatchEvent(new Event('input'))")
    tab.wait("!document.getElementById('matches').textContent.includes('of')")
    tab.evaluate("document.getElementById('list').focus()")
    tab.press("End")
    assert tab.evaluate("document.querySelector('#list [aria-selected=true]').ariaPosInSet") == str(places)
    # Measured: 0.4 and 0.7 s to open, 0.1 s to search. A busy machine gets ten times as long.
    assert opened < 7_000
    assert searched < 1_500


def test_many_pools_are_shown_when_asked(report: Report, show: Open) -> None:
    """The first few at once, the others by a button; a chart of each."""
    events = [
        make_leak(kind="orphaned", hold=make_hold(id=number, pool=f"pool-{number}"), time=later(number))
        for number in range(40)
    ]
    tab = show(report(*events))
    assert len(tab.texts("figure")) == 4
    tab.click("#more-tracks")
    assert len(tab.texts("figure")) == 40
    assert not tab.evaluate("document.getElementById('more-tracks').offsetParent")


def test_a_peak_of_a_moment_is_drawn(report: Report, show: Open) -> None:
    """A hold of a millisecond in an hour still has a column of its own."""
    short = make_hold(id=1, acquired_at=NOON, held_for=0.001)
    long = make_hold(id=2, acquired_at=NOON - timedelta(hours=1), held_for=7200.0)
    tab = show(report(make_leak(hold=short, healed=True), make_leak(kind="orphaned", hold=long, time=later(3600))))
    heights = tab.evaluate("[...document.querySelectorAll('path.area')].map((one) => Math.round(one.getBBox().height))")
    assert max(heights) == 64  # two of four slots
