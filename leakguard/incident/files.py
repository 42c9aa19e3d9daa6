"""Incident files: what there was to see when no connection was left, because people arrive after the restart.

What the process held is read at once, by the thread whose acquire failed: in a moment its ``with`` blocks will have
given back what it held itself. The search for references, and the disk, which may be slow, full or gone, are left to a
thread that ends with its file. So the file has its name before anybody knows whether it can be written; where that
fails, it is said in the log, once, and no exception names a file again until one could be written.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from leakguard.judging.wording import duration
from leakguard.model import Exhausted, Frame, Json
from leakguard.process import daemon
from leakguard.process.native import Lock
from leakguard.settings import Settings
from leakguard.telling.census import Question

if TYPE_CHECKING:
    import threading
    from pathlib import Path

INTERVAL: Final = 60.0
"""Seconds between two incident files of a process."""
HOLDS_LIMIT: Final = 1_000
"""The most holds of an incident."""
NAME: Final = "leakguard-incident"


class Desk(Protocol):
    """Where questions about this process are answered."""

    def census(self, question: Question) -> dict[str, Json]:
        """What the process holds."""

    def stack(self) -> tuple[Frame, ...]:
        """Where the caller is."""

    def search(self, ids: Collection[int]) -> Mapping[int, Sequence[str]]:
        """What keeps these holds alive, as far as they are still held."""


class Incidents:
    """Writes the incident files of this process. Thread-safe; fork-safe through `forget`."""

    def __init__(
        self,
        desk: Desk,
        monotonic: Callable[[], float],
        failed: Callable[[str, BaseException], None],
        *,
        threaded: bool,
    ) -> None:
        self._desk = desk
        self._monotonic = monotonic
        self._failed = failed
        self._threaded = threaded
        self.forget()

    def forget(self) -> None:
        """In a forked child: the parent's file is the parent's."""
        self._lock = Lock()
        self._begun_at: float | None = None
        self._latest: Path | None = None
        self._thread: threading.Thread | None = None

    def file_of(self, event: Exhausted, note: str, settings: Settings) -> str | None:
        """Have a file written, unless there is one of the last minute; the line that names it. Never raises."""
        directory = settings.incident_dir
        if directory is None:
            return None
        try:
            now = self._monotonic()
            if self._is_due(now):
                self._begin(event, note, directory)
            age = now - (self._begun_at or now)
            when = f" of {duration(age)} ago" if age >= 1 else ""
            return f"incident file{when}: {self._latest}" if self._latest is not None else None
        except Exception as error:
            self._failed("incident", error)
            return None

    def finish(self, timeout: float) -> None:
        """Wait for the file that is being written: the process is about to end."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _is_due(self, now: float) -> bool:
        with self._lock:  # of many that fail at once, one writes
            if self._begun_at is not None and now - self._begun_at < INTERVAL:
                return False
            self._begun_at = now
            return True

    def _begin(self, event: Exhausted, note: str, directory: Path) -> None:
        path = directory / f"incident-{event.time:%Y%m%dT%H%M%SZ}-{event.pid}.txt"
        refused, packed = self._desk.stack(), self._desk.census(Question(holds=HOLDS_LIMIT))
        self._latest = path

        def write() -> None:
            self._write(path, event, note, refused, packed)

        if self._threaded:
            try:
                self._thread = daemon.start(write, NAME)
                return
            except RuntimeError:  # no thread can be started now
                pass
        write()

    def _write(
        self, path: Path, event: Exhausted, note: str, refused: tuple[Frame, ...], packed: Mapping[str, Json]
    ) -> None:
        try:
            from leakguard.incident.writing import save
            from leakguard.live.answer import snapshot_of

            snapshot = snapshot_of(packed)
            oldest = {one.fingerprint: one.hold.id for one in reversed(snapshot.holds)}
            save(path, event, note, refused, snapshot, self._desk.search(oldest.values()))
        except OSError as error:
            self._latest = None
            # Without its traceback: the disk is full, or the directory is not ours, and that is all there is to say.
            self._failed("incident file", OSError(error.errno, error.strerror, error.filename))
        except Exception as error:
            self._latest = None
            self._failed("incident", error)
