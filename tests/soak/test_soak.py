"""Healthy mixed traffic for a while: no leak is reported, no count drifts, and memory stays flat.

``LEAKGUARD_SOAK_SECONDS`` makes it longer; `make soak` runs it for an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("traffic.py")
SECONDS = float(os.environ.get("LEAKGUARD_SOAK_SECONDS", "15"))

LIMITS = ("--threshold=8", "--idle-in-transaction=4", "--owner-grace=1")
GUARDED = (sys.executable, "-m", "leakguard", "run", "--fail", *LIMITS)


@pytest.mark.slow
def test_healthy_traffic_stays_silent(dsn: str, tmp_path: Path) -> None:
    """Thresholds are an eighth of a minute here, so that a quarter of a minute has seen what an hour would."""
    report = tmp_path / "events-%p.jsonl"
    done = subprocess.run(
        [*GUARDED, f"--report={report}", "--", sys.executable, str(PROGRAM), dsn, str(SECONDS)],
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["crashes"] == []
    assert told["done"] > 20 * SECONDS
    assert 0 < told["failed"] < told["done"]
    events = [json.loads(line) for path in tmp_path.glob("events-*.jsonl") for line in path.read_text().splitlines()]
    assert [event for event in events if event["event"] in ("leak", "exhausted", "recovered")] == []
    (summary,) = [event for event in events if event["event"] == "summary"]  # the children left without a word
    assert summary["acquired"] > 10 * SECONDS
    assert (summary["acquired"], summary["held"], summary["leaked"]) == (summary["released"], 0, 0)
    assert (summary["internal_errors"], summary["dropped_events"], told["held"]) == (0, 0, 0)
    assert told["end"] - told["warm"] < 200_000, (
        f"{told['warm']} bytes after a third of the time, {told['end']} at the end"
    )
