"""The two files of an incident: text for whoever arrives after the restart, JSON Lines for programs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from leakguard.model import Exhausted, Frame, Snapshot
from leakguard.prose import holders, layout, phrases
from leakguard.reporters.jsonl import encode

KEPT: Final = 20
"""How many incidents a directory keeps, the newest, of all processes."""
LINE_LIMIT: Final = 6_000_000
"""Bytes of the longest line; `leakguard report` reads up to eight millions."""
_FILE: Final = r"(incident-\d{8}T\d{6}Z-\d+)\.(?:jsonl|txt)"


def save(
    path: Path,
    event: Exhausted,
    note: str,
    refused: Sequence[Frame],
    snapshot: Snapshot,
    kept_by: Mapping[int, Sequence[str]],
) -> None:
    """Write an incident: as text to `path`, as JSON Lines beside it; then remove the oldest. Raises OSError.

    `note` is the exception's, `refused` the stack of the acquire that failed, `kept_by` what keeps holds alive, by id.
    """
    explained = (replace(one, kept_by=_lines(kept_by.get(one.hold.id))) for one in snapshot.holds)
    snapshot = holders.with_cures(replace(snapshot, holds=tuple(explained)))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = path.with_suffix(".jsonl")
    _write_whole(lines, encode(event) + _line(snapshot))
    # The text last: whoever finds it, by the name in the exception's note, finds the other one, too.
    _write_whole(path, _text(event, note, refused, snapshot, lines.name).encode("utf-8", "backslashreplace"))
    _prune(path.parent)


def _text(event: Exhausted, note: str, refused: Sequence[Frame], snapshot: Snapshot, lines: str) -> str:
    title = f"Incident of {event.time:%Y-%m-%d %H:%M:%S} UTC: no connection was left."
    asked = layout.sentences("error", event.error, layout.WIDTH)
    asked += layout.listed("refused at", [phrases.frame_words(frame) for frame in refused if frame.app])
    settings = [f"  {name:22}{phrases.shown(value)}" for name, value in snapshot.settings.items()]
    end = f"The same for programs: {lines} (`leakguard report` reads it). The newest {KEPT} incidents are kept here."
    about = f"leakguard {snapshot.version}, Python {snapshot.python}, parent process {snapshot.parent_pid}"
    blocks = [
        "\n".join([title, *asked]),
        "\n".join(map(phrases.shown, note.splitlines())),
        holders.render_snapshots([snapshot], everything=True),
        "\n".join(["settings:", *settings]),
        f"{about}.\n{end}",
    ]
    return "\n\n".join(blocks) + "\n"


def _line(snapshot: Snapshot) -> bytes:
    """The snapshot as a line that is short enough to be read again."""
    while True:
        line = encode(snapshot)
        if len(line) <= LINE_LIMIT:
            return line
        half = len(snapshot.holds) // 2
        snapshot = replace(
            snapshot, holds=snapshot.holds[:half], left_out=snapshot.left_out + len(snapshot.holds) - half
        )


def _lines(found: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if found is None else tuple(found)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, and that has its name only once it is whole."""
    unfinished = path.with_name(f".{path.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(unfinished, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _prune(directory: Path) -> None:
    """Remove all but the newest. Other processes do the same at the same time."""
    found = [(match[1], path) for path in directory.iterdir() if (match := re.fullmatch(_FILE, path.name)) is not None]
    kept = sorted({name for name, _ in found})[-KEPT:]
    for name, path in found:
        if name not in kept:
            path.unlink(missing_ok=True)
