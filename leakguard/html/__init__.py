"""The report as one self-contained HTML page, of event files or of running processes. Needs the extra ``html``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from leakguard.evidence import Evidence
from leakguard.html import live
from leakguard.html.data import to_data, to_json
from leakguard.html.render import MissingJinjaError, policy, require, to_html
from leakguard.html.report import EventPage
from leakguard.html.source import Source
from leakguard.known import Known
from leakguard.model import Event, Snapshot

__all__ = ["MissingJinjaError", "ReportPage", "policy", "render_snapshots", "require", "snapshots_json"]


class ReportPage:
    """The page of event files: give its `observe` to the evidence that reads them, then `render` it.

    `source` is a directory; lines around a place are shown from files below it. Raises MissingJinjaError at once, so
    that nobody reads a gigabyte first.
    """

    def __init__(self, source: Path | None = None) -> None:
        require()
        self._page = EventPage(Source(source) if source is not None else None)
        self.observe: Callable[[Event | Snapshot], None] = self._page.observe

    def render(self, evidence: Evidence, known: Known | None = None) -> str:
        """The whole file; with what is `known`, each place says whether it is new."""
        return to_html(self._page.page(evidence, known, datetime.now(UTC)))


def render_snapshots(snapshots: Sequence[Snapshot]) -> str:
    """The page of one or several processes as they were when asked. Raises MissingJinjaError."""
    return to_html(live.page(snapshots, datetime.now(UTC)))


def snapshots_json(snapshots: Sequence[Snapshot]) -> str:
    """The data alone, as a page that is open already asks for it."""
    return to_json(to_data(live.page(snapshots, datetime.now(UTC))))
