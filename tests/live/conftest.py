"""Fixtures for the live view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from leakguard.live import places
from tests.live.support import Guest, guarded, private_runtime_dir


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the sockets of this test are, and the only place where any are looked for."""
    with private_runtime_dir() as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
        found = places.directories
        monkeypatch.setattr(
            places, "directories", lambda uid: [one for one in found(uid) if one[0].startswith(str(path))]
        )
        yield path


@pytest.fixture
def guest(runtime_dir: Path) -> Iterator[Guest]:
    """This process, guarded, with a socket."""
    with guarded() as guest:
        yield guest
