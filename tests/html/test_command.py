"""``leakguard report`` with what is known already, and as a page."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from leakguard.cli import main
from leakguard.html import render
from leakguard.model import Event
from leakguard.reporters.jsonl import encode
from tests.factories import FINGERPRINT, later, make_exhausted, make_leak, make_summary

OTHER = "a03b77c15e20"

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, *events: Event | bytes) -> None:
    """A file of events, and of lines as they are."""
    Path(name).write_bytes(b"".join(event if isinstance(event, bytes) else encode(event) for event in events))


def report(*events: Event, options: tuple[str, ...] = ()) -> int:
    """The exit status of the command for these events."""
    write("now.jsonl", *events)
    return main(["report", "now.jsonl", *options])


def baseline(maximum: int = 3, more: str = "") -> tuple[str, str]:
    """The option that names a baseline with so many leaks of one place."""
    Path("known.toml").write_text(f'version = 1\n[[leak]]\nfingerprint = "{FINGERPRINT}"\nmax = {maximum}\n{more}')
    return "--baseline", "known.toml"


def out(capsys: pytest.CaptureFixture[str]) -> str:
    """Standard output, its lines joined where they were wrapped."""
    return " ".join(capsys.readouterr().out.split())


# --------------------------------------------------------------------------------------------------------- the baseline


def test_what_is_known_is_no_problem(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 0, and it says that it is known, and why."""
    assert report(make_leak(count=3), make_summary(), options=baseline(more='reason = "to be ported"\n')) == 0
    text = out(capsys)
    assert text.startswith("3 leaks, 1 place, 1 of them known; 1 process")
    assert "known: yes: the baseline has at most 3: to be ported" in text


@pytest.mark.parametrize(
    ("events", "words"),
    [
        pytest.param((make_leak(count=5),), "known: no: the baseline has at most 3, this is 2 more", id="more of it"),
        pytest.param((make_leak(count=3), make_leak(fingerprint=OTHER)), "known: no", id="another"),
        pytest.param((make_leak(count=3), make_exhausted()), "EXHAUSTED", id="exhausted"),
        pytest.param((make_leak(count=3), make_summary(leaks={"orphaned": 1})), "1 orphaned", id="only counted"),
    ],
)
def test_what_is_not_known_is_a_problem(
    events: tuple[Event, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1 for a new place, for more of a known one, and for what a baseline cannot list."""
    assert report(*events, options=baseline()) == 1
    assert words in out(capsys)


def test_an_entry_may_be_for_some_kinds_only(capsys: pytest.CaptureFixture[str]) -> None:
    """A leak of another kind at the same place is not covered."""
    assert report(make_leak(kind="orphaned", count=1), options=baseline(more='kinds = ["dropped"]\n')) == 1
    assert "known: no: the baseline has at most 3 of dropped, this is 1 more" in out(capsys)


def test_an_earlier_run_will_do_as_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its events have told of is known, how often it may be now."""
    write("before.jsonl", b"\n", make_leak(count=1), make_summary())
    options = ("--baseline", "before.jsonl", "--format", "json")
    assert report(make_leak(count=900), options=options) == 0
    (group,) = json.loads(capsys.readouterr().out)["groups"]
    assert (group["standing"], group["count"]) == ("known", 900)
    assert report(make_leak(fingerprint=OTHER), make_leak(count=9, time=later(1)), options=options) == 1
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [(group["fingerprint"], group["standing"]) for group in groups] == [(OTHER, "new"), (FINGERPRINT, "known")]


def test_an_earlier_run_without_a_leak_knows_nothing() -> None:
    """Its file has a summary alone."""
    write("before.jsonl", make_summary(leaks={}))
    assert report(make_leak(), options=("--baseline", "before.jsonl")) == 1


def test_without_a_baseline_nothing_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither word is said."""
    assert report(make_leak(), options=("--format", "json")) == 1
    assert json.loads(capsys.readouterr().out)["groups"][0]["standing"] is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "there is no baseline known.toml", id="missing"),
        pytest.param(b"version = 2\n", "known.toml:1: version 2 is of a newer leakguard", id="newer"),
        pytest.param(b"\x1b[2J", "known.toml:1: the baseline is damaged", id="garbage"),
        pytest.param(b'{"a": 1}\n', "known.toml is neither a baseline nor a file of events: 1 line", id="other JSON"),
    ],
)
def test_a_baseline_that_is_none_ends_it(content: bytes | None, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the file, status 2, and no report that could be mistaken for a good one."""
    if content is not None:
        Path("known.toml").write_bytes(content)
    assert report(make_leak(), options=("--baseline", "known.toml")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"leakguard report: {words}")
    assert captured.err.count("\n") == 1
    assert captured.err.rstrip("\n").isprintable()


def test_the_baseline_is_never_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor are the events."""
    assert report(make_leak(), options=(*baseline(), "--output", "known.toml")) == 2
    assert "it is one of the files to read" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- the page


def test_a_page_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """Private, whole, on standard output or in a file; the exit status is that of the text."""
    assert report(make_leak(), options=("--format", "html", "--output", "leaks.html")) == 1
    page = Path("leaks.html").read_text("utf-8")
    assert stat.S_IMODE(os.stat("leaks.html").st_mode) == 0o600  # noqa: PTH116
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert report(make_summary(leaks={}), options=("--format", "html")) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")


def test_a_source_that_is_no_directory_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is read."""
    assert main(["report", "missing.jsonl", "--format", "html", "--source", "nowhere"]) == 2
    assert capsys.readouterr().err == "leakguard report: --source nowhere: not a directory\n"


def test_without_jinja_there_is_no_page(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what to install; text and JSON need nothing."""
    monkeypatch.setitem(sys.modules, "jinja2", None)
    render._assets.cache_clear()
    assert report(make_leak(), options=("--format", "html")) == 2
    assert capsys.readouterr().err == "leakguard report: --format html needs Jinja2: pip install 'leakguard[html]'\n"
    assert report(make_leak(), options=("--format", "json")) == 1
    render._assets.cache_clear()


@pytest.mark.slow
def test_text_and_json_do_not_load_jinja() -> None:
    """Nor does importing leakguard.web: its functions do."""
    program = "import sys, leakguard.cli.report, leakguard.web; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_assets_cannot_end_the_elements_they_stand_in() -> None:
    """Style and script are put into the page as they are."""
    for file in (files("leakguard.html") / "assets").iterdir():
        if file.name != "page.html":
            text = file.read_text("utf-8")
            assert "</s" not in text.lower()
            assert "<!--" not in text
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
            assert "innerHTML" not in text
