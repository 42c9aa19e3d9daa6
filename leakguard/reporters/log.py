"""Events as records of the standard `logging`: the text block for people, structured attributes for pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from leakguard.model import Event, Exhausted, Json, Leak, Recovered, Summary
from leakguard.prose.events import render_event
from leakguard.reporters.shared import level_of, site_of

if TYPE_CHECKING:
    import logging

# logging's own numbers. It takes milliseconds to import, and whoever does not log should not wait for it.
_LEVELS: Final = {"info": 20, "warning": 30, "error": 40}


class LogReporter:
    """Writes every event that is worth a line as one record; by default to the logger ``leakguard``.

    Proven leaks and exhausted pools are errors, suspicions and advice warnings, the rest is information. Every record
    has the attributes ``leakguard_event`` (the JSON event as a dict), ``leakguard_kind``, ``leakguard_fingerprint``,
    ``leakguard_site`` (``file:line``) and ``leakguard_count``, None where the event has no such thing. Its
    ``pathname``, ``lineno`` and ``funcName`` are the site's: that is where the record's reader has to look.

    Thread-safe. Handlers run in the caller's thread; what a filter raises goes to the caller.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger | None = None) -> None:
        if logger is None:
            from logging import getLogger

            logger = getLogger("leakguard")
        self._logger = logger

    def report(self, event: Event) -> None:
        """Log the event."""
        level = _LEVELS[level_of(event)]
        if not self._logger.isEnabledFor(level):
            return
        text = render_event(event)
        if not text:
            return
        site = site_of(event)
        record = self._logger.makeRecord(
            self._logger.name,
            level,
            site.file if site is not None else "(unknown file)",
            site.line if site is not None else 0,
            "%s",  # the text is an argument, so that a % in a statement is never taken for a placeholder
            (text,),
            None,
            site.function if site is not None else None,
        )
        # Not through `extra=`: that raises where the application's record factory has set an attribute already.
        for name, value in fields_of(event).items():
            record.__dict__.setdefault(name, value)
        self._logger.handle(record)


def fields_of(event: Event) -> dict[str, Json]:
    """The attributes of the event's log record."""
    site = site_of(event)
    kind, fingerprint, count = _identity(event)
    return {
        "leakguard_event": event.to_dict(),
        "leakguard_kind": kind,
        "leakguard_fingerprint": fingerprint,
        "leakguard_site": f"{site.file}:{site.line}" if site is not None else None,
        "leakguard_count": count,
    }


def _identity(event: Event) -> tuple[str | None, str | None, int | None]:
    match event:
        case Leak():
            return event.kind, event.fingerprint, event.count
        case Recovered():
            return event.kind, event.fingerprint, None
        case Exhausted():
            worst = event.holders[0] if event.holders else None
            return None, worst.fingerprint if worst is not None else None, event.count
        case Summary():
            return None, None, None
