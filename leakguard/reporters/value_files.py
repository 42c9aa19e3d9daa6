"""The files in which processes leave their metrics for whichever of them is scraped: prometheus-client's multiprocess
mode.

That mode knows no collectors, only the values of the package's own metric objects, in files that it maps into memory.
These here have the same format and are read by the same ``MultiProcessCollector``, but each is written whole and put
in place in one step: what is gone leaves it, a full disk is an error and not a signal that ends the process, and no
lock is shared with the application. A file is locked for as long as its process lives. The gauges of a process that is
gone are removed by the others; its counters stay, because a counter must not go down.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

FileKind: TypeAlias = Literal["counter", "histogram", "gauge_livesum", "gauge_livemax"]
_KINDS: Final[tuple[FileKind, ...]] = ("counter", "histogram", "gauge_livesum", "gauge_livemax")
_Entry: TypeAlias = tuple[str, float]  # a key as prometheus-client writes it, and the value

_HEADER: Final = struct.Struct("i4x")
_LENGTH: Final = struct.Struct("i")
_VALUE: Final = struct.Struct("dd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One line of an exposition: `name` and `text` are the metric's, `sample` is what the line begins with."""

    kind: FileKind
    name: str
    text: str
    sample: str
    labels: Mapping[str, str]
    value: float


class ValueFiles:
    """This process's files in one directory. Not thread-safe: one thread writes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: dict[FileKind, list[_Entry]] = {}
        self._locked: dict[FileKind, int] = {}

    def write(self, values: Iterable[Value]) -> None:
        """Put these values in place of the earlier ones; a file whose values are the same is left alone.

        Raises OSError, and ValueError where the prometheus-client that is installed cannot read what was written.
        """
        entries: dict[FileKind, list[_Entry]] = {kind: [] for kind in _KINDS}
        for one in values:
            key = json.dumps([one.name, one.sample, dict(one.labels), one.text], sort_keys=True)
            entries[one.kind].append((key, one.value))
        for kind, some in entries.items():
            if self._written.get(kind, []) != some or (some and not self._path(kind).exists()):
                self._replace(kind, some)

    def prune(self) -> None:
        """Remove the gauges of processes that are gone. Raises OSError."""
        for path in self._directory.glob("gauge_live*_leakguard-*.db"):
            if path.stem.rpartition("-")[2] != str(os.getpid()) and _is_abandoned(path):
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """This process exports no more: what it counted stays, what it held is gone. Raises OSError."""
        self.forget()
        for kind in _KINDS:
            if kind.startswith("gauge"):
                self._path(kind).unlink(missing_ok=True)

    def forget(self) -> None:
        """Let go of the files, and of the parent's in a forked child."""
        for descriptor in self._locked.values():
            os.close(descriptor)
        self._locked.clear()
        self._written.clear()

    def _path(self, kind: FileKind) -> Path:
        return self._directory / f"{kind}_leakguard-{os.getpid()}.db"

    def _replace(self, kind: FileKind, entries: list[_Entry]) -> None:
        path = self._path(kind)
        fresh = path.with_suffix(".tmp")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            _lock(descriptor)
            content = encode(entries)
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            if not self._written:
                _check(fresh, entries)
            fresh.replace(path)
        except BaseException:
            os.close(descriptor)
            fresh.unlink(missing_ok=True)
            raise
        # In this order: the file of that name is locked at every moment.
        previous = self._locked.get(kind)
        self._locked[kind], self._written[kind] = descriptor, entries
        if previous is not None:
            os.close(previous)


def encode(entries: Iterable[_Entry]) -> bytes:
    """The values as prometheus-client stores them."""
    body = bytearray()
    for key, value in entries:
        text = key.encode()
        padding = b" " * (8 - (len(text) + _LENGTH.size) % 8)  # a whole eight where none is needed
        body += _LENGTH.pack(len(text)) + text + padding + _VALUE.pack(value, 0.0)
    return _HEADER.pack(_HEADER.size + len(body)) + body


def _check(path: Path, entries: list[_Entry]) -> None:
    """The format is prometheus-client's own affair: what it could not read must not be left lying there."""
    from prometheus_client.mmap_dict import MmapedDict

    read: Callable[[str], Iterable[tuple[str, float, float, int]]] = MmapedDict.read_all_values_from_file
    try:
        found = [(key, value) for key, value, *_ in read(str(path))]
    except Exception:
        found = []
    if found != entries:
        raise ValueError("this version of prometheus-client stores its values in another format")


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without locks: there, nobody can tell that this process is gone
        return


def _is_abandoned(path: Path) -> bool:
    """Whether no process has the file locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # If not the same, its process has put a new file in place meanwhile, and let go of this one.
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
    finally:
        os.close(descriptor)
