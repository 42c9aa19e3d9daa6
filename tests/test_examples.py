"""Every example runs, and names the lines that it marks with ``# LEAK``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
NEEDS = {"fastapi_app.py": ("fastapi", "httpx")}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_example_finds_its_leaks(path: Path, dsn: str) -> None:
    for module in NEEDS.get(path.name, ()):
        pytest.importorskip(module)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LEAKGUARD_")}
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=EXAMPLES.parent,
        env={**environment, "LEAKGUARD_EXAMPLE_DSN": dsn, "PYTHONPATH": str(EXAMPLES.parent)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "nested_acquire" not in done.stdout
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.endswith("# LEAK"):
            assert f"{path.name}:{number}" in done.stdout
        elif f"{path.name}:{number}:" in done.stdout:
            pytest.fail(f"a false alarm at line {number}:\n{done.stdout}")


@pytest.mark.slow
def test_example_starts_its_own_server() -> None:
    """Without ``LEAKGUARD_EXAMPLE_DSN``."""
    environment = {name: value for name, value in os.environ.items() if name != "LEAKGUARD_EXAMPLE_DSN"}
    command = [sys.executable, str(EXAMPLES / "wrap_pool.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**environment, "PYTHONPATH": str(EXAMPLES.parent)}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PoolTimeout" in done.stdout


def test_the_list_is_complete() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    assert [path.name for path in FILES if f"[{path.name}]({path.name})" not in listed] == []
