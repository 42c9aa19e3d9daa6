"""All that a run has found: gathered in the process that prints the summary, whoever found it."""

from __future__ import annotations

from pathlib import Path

from leakguard.pytest_plugin.findings import Entry, Parcel
from leakguard.pytest_plugin.known import KnownLeaks
from leakguard.reporters.jsonl import JsonlReporter


class RunReport:
    """The run's findings so far, also written to the report file, where there is one. Raises OSError for a bad path."""

    def __init__(self, file: Path | None, known: KnownLeaks | None = None) -> None:
        self.known = known
        self.partly = ""
        self.entries: list[Entry] = []
        self.troubles: list[str] = []
        self.missing: list[str] = []
        self._writer: JsonlReporter | None = None
        if file is not None:
            file.unlink(missing_ok=True)
            self._writer = JsonlReporter(file)

    def take(self, parcel: Parcel) -> list[Entry]:
        """Add what a process tells. Returns the entries that fail the run and that pytest has not counted itself."""
        self.entries += parcel.entries
        self.troubles += parcel.troubles
        self.partly = self.partly or parcel.partly
        if self._writer is not None:
            for entry in parcel.entries:
                for leak in entry.leaks:
                    self._writer.report(leak)
            for event in parcel.events:
                self._writer.report(event)
        return [entry for entry in parcel.entries if entry.status == "leaked" and not entry.counted]

    @property
    def failing(self) -> list[Entry]:
        """The entries that fail the run."""
        return [entry for entry in self.entries if entry.status == "leaked"]

    def close(self) -> None:
        """Close the report file."""
        if self._writer is not None:
            self._writer.close()
