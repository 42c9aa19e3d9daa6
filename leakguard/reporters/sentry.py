"""Sentry: an issue for each bug, with the stack that acquired."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from leakguard.model import Event, Exhausted, Frame, Json, Leak, Site
from leakguard.reporters.shared import level_of, needs, site_of

if TYPE_CHECKING:
    from sentry_sdk import Client
    from sentry_sdk.types import Event as Issue

    from leakguard.telling.registry import Registry

BUGS_LIMIT: Final = 1_000
"""The most bugs of which it is remembered how often they were sent. Of later ones, every event is sent."""
_LOGGER: Final = "leakguard"


class SentryReporter:
    """Sends leaks and exhaustion to Sentry. Raises SettingsError where the package sentry-sdk is not installed.

    Of one bug and kind the first event is sent, and then one whenever the count has doubled: a leak in a loop does not
    use up the quota. Without `client`, the one that the application has initialised by then is used.
    """

    def __init__(self, *, client: Client | None = None) -> None:
        with needs("sentry"):
            import sentry_sdk  # noqa: F401
        self._client = client
        self._sent: dict[tuple[str, ...], int] = {}
        self._ignored: set[str] | None = None

    def attach(self, _registry: Registry) -> None:
        """Keep Sentry from making a second issue of what is also logged."""
        from sentry_sdk.integrations import logging

        ignored: set[str] = getattr(logging, "_IGNORED_LOGGERS", set())
        if _LOGGER not in ignored:
            ignored.add(_LOGGER)
            self._ignored = ignored

    def close(self) -> None:
        """Take that back."""
        if self._ignored is not None:
            self._ignored.discard(_LOGGER)
            self._ignored = None

    def report(self, event: Event) -> None:
        """Send the event, if it is news."""
        if not isinstance(event, Leak | Exhausted) or not self._is_news(event):
            return
        import sentry_sdk

        client = self._client or sentry_sdk.get_client()
        # Not the scope of the thread that happens to tell: that may be a copy of some request's.
        client.capture_event(_issue_of(event), scope=sentry_sdk.get_global_scope())

    def _is_news(self, event: Leak | Exhausted) -> bool:
        key = tuple(_fingerprint_of(event)) + ((event.kind,) if isinstance(event, Leak) else ())
        before = self._sent.get(key, 0)
        if before < event.count < 2 * before:  # a count that went down is a forked child's
            return False
        if before or len(self._sent) < BUGS_LIMIT:
            self._sent[key] = event.count
        return True


def _fingerprint_of(event: Leak | Exhausted) -> list[str]:
    if isinstance(event, Leak):
        return ["leakguard", event.fingerprint]
    return ["leakguard", "exhausted", event.cause, event.pool or ""]


def _issue_of(event: Leak | Exhausted) -> Issue:
    site = site_of(event)
    if isinstance(event, Leak):
        title, text = f"ConnectionLeak ({event.kind})", f"{event.reason} {event.advice}"
        frames = event.hold.stack if event.hold is not None else ()
        pool = event.pool.name if event.pool is not None else None
    else:
        title, text = f"ConnectionsExhausted ({event.cause})", event.error
        frames, pool = (), event.pool
    tags = {"leakguard.kind": event.kind, "leakguard.fingerprint": event.fingerprint} if isinstance(event, Leak) else {}
    contexts: dict[str, dict[str, object]] = {"leakguard": {**event.to_dict()}}
    if isinstance(event, Leak) and event.hold is not None and event.hold.trace is not None:
        contexts["trace"] = {"trace_id": event.hold.trace.trace_id, "span_id": event.hold.trace.span_id}
    return {
        "level": level_of(event),
        "timestamp": event.time,
        "logger": _LOGGER,
        "fingerprint": _fingerprint_of(event),
        "tags": {**tags, **({} if pool is None else {"leakguard.pool": pool})},
        "contexts": contexts,
        "exception": {
            "values": [
                {
                    "type": title,
                    "value": text,
                    "mechanism": {"type": "leakguard", "handled": True},
                    "stacktrace": {"frames": _frames(frames, site)},
                }
            ]
        },
    }


def _frames(stack: Iterable[Frame], site: Site | None) -> list[dict[str, Json]]:
    """The stack as Sentry wants it: outermost first. The site alone, where there is no more."""
    frames: list[dict[str, Json]] = [
        {
            "abs_path": frame.file,
            "filename": frame.file.rpartition("/")[2],
            "lineno": frame.line,
            "function": frame.function,
            "in_app": frame.app,
        }
        for frame in stack
    ]
    if site is not None:
        here = next((frame for frame in frames if (frame["abs_path"], frame["lineno"]) == (site.file, site.line)), None)
        if here is None:
            here = {
                "abs_path": site.file,
                "filename": site.file.rpartition("/")[2],
                "lineno": site.line,
                "function": site.function,
                "in_app": True,
            }
            frames.insert(0, here)
        here["context_line"] = site.code
    return frames[::-1]
