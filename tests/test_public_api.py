"""The public surface is a file: changing it is a visible diff. Importing leakguard costs next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import leakguard

PUBLIC_NAMES = Path(__file__).with_name("public_api.txt").read_text(encoding="utf-8").split()

# asyncio and wrapt are here for the time they take; leakguard loads them when it is installed, not before.
DRIVERS_AND_POOLS = ["psycopg", "psycopg_pool", "psycopg2", "asyncpg", "sqlite3", "sqlalchemy", "greenlet"]
NOT_IMPORTED = [*DRIVERS_AND_POOLS, "pytest", "asyncio", "wrapt"]

IMPORT_AND_TELL = f"""
import sys, threading
import leakguard
print(*[name for name in {NOT_IMPORTED} if name in sys.modules], sep=",")
print(*[thread.name for thread in threading.enumerate()], sep=",")
"""


def test_public_names_are_those_of_the_committed_list() -> None:
    """A new or removed name has to be written into tests/public_api.txt, too."""
    assert sorted(leakguard.__all__) == PUBLIC_NAMES


def test_committed_list_is_sorted_and_has_no_duplicates() -> None:
    """So that a diff of the list shows exactly what changed."""
    assert sorted(set(PUBLIC_NAMES)) == PUBLIC_NAMES


def test_every_public_name_exists() -> None:
    """`__all__` promises nothing that is not there."""
    assert [name for name in leakguard.__all__ if not hasattr(leakguard, name)] == []


def test_import_loads_no_library_and_starts_no_thread() -> None:
    """A program that imports leakguard without installing it pays for nothing."""
    told = subprocess.run([sys.executable, "-c", IMPORT_AND_TELL], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["", "MainThread"]
    assert told.stderr == ""
