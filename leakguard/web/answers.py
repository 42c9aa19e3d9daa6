"""What a request to the page is answered, whatever the server interface."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, replace
from http import HTTPStatus
from itertools import islice
from typing import Final

from leakguard import html, runtime
from leakguard.model import Snapshot
from leakguard.prose.holders import with_cures

_FRESH: Final = 1.0
"""Seconds for which everybody gets the same answer: ten people who look must not cost ten times as much."""

_CURES: Final = 100
"""For how many places the source is read: each may be a file of its own to parse."""

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. For HEAD the body is empty, and the headers are those of GET."""

    status: HTTPStatus
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Answers:
    """Answers requests that are allowed already. Thread-safe: one snapshot is taken at a time.

    Raises MissingJinjaError where no page can be made.
    """

    def __init__(self) -> None:
        html.require()
        self._policy = f"{html.policy(live=True)}; frame-ancestors 'none'"
        self._lock = threading.Lock()
        self._latest: tuple[float, bool, Snapshot] | None = None

    def forbidden(self) -> Response:
        """The answer for whoever may not see the page: nothing about why."""
        return self._plain(HTTPStatus.FORBIDDEN)

    def answer(self, method: str, path: str, query: str) -> Response:
        """The page, or its data; `path` is relative to where the application is mounted. Never raises."""
        if method not in ("GET", "HEAD"):
            return self._plain(HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", "GET, HEAD"))
        if path not in ("", "/"):
            return self._plain(HTTPStatus.NOT_FOUND)
        try:
            response = self._page(query)
        except Exception as error:
            runtime.current().internal_error("web", error)
            response = self._plain(HTTPStatus.INTERNAL_SERVER_ERROR)
        return Response(response.status, response.headers, b"") if method == "HEAD" else response

    def _page(self, query: str) -> Response:
        asked = query.split("&")
        snapshot = self._snapshot(why="why=1" in asked)
        if "format=json" in asked:
            return self._response(HTTPStatus.OK, "application/json", html.snapshots_json([snapshot]))
        return self._response(HTTPStatus.OK, "text/html; charset=utf-8", html.render_snapshots([snapshot]))

    def _snapshot(self, *, why: bool) -> Snapshot:
        with self._lock:
            now = time.monotonic()
            if self._latest is None or now - self._latest[0] > _FRESH or why > self._latest[1]:
                self._latest = time.monotonic(), why, _own(why=why)
            return self._latest[2]

    def _plain(self, status: HTTPStatus, *more: tuple[str, str]) -> Response:
        return self._response(status, "text/plain; charset=utf-8", f"{status.value} {status.phrase}\n", *more)

    def _response(self, status: HTTPStatus, kind: str, text: str, *more: tuple[str, str]) -> Response:
        body = text.encode("utf-8", "backslashreplace")
        length = ("Content-Length", str(len(body)))
        policy = ("Content-Security-Policy", self._policy)
        return Response(status, (("Content-Type", kind), length, policy, *_HEADERS, *more), body)


def _own(*, why: bool) -> Snapshot:
    """What this process holds; with `why`, also what keeps it alive, and what the source says to write instead."""
    snapshot = runtime.current().snapshot(why=why)
    if not why:
        return snapshot
    newest = {one.fingerprint: one for one in snapshot.holds}
    some = replace(snapshot, holds=tuple(islice(newest.values(), _CURES)))
    cures = {one.hold.id: one.cure for one in with_cures(some).holds}
    return replace(snapshot, holds=tuple(replace(one, cure=cures.get(one.hold.id)) for one in snapshot.holds))


class Doorkeeper:
    """Asks who may see the page, and takes nothing but True for an answer.

    The first answer that is neither true nor false, and the first exception, are logged, without what they say: a
    visitor is told nothing, but whoever wrote the callable has to hear of it. Raises TypeError where there is none.
    """

    def __init__(self, authorize: object, function: str, subject: str) -> None:
        if not callable(authorize):
            raise TypeError(
                f"{function}(authorize={authorize!r}): there is no page without a callable that takes {subject} and "
                "returns True for whoever may see it"
            )
        self._function = function
        self._told = False

    def allows(self, verdict: object) -> bool:
        """Whether that was a yes."""
        if verdict is not True and verdict is not False:
            self._tell(f"returned a {type(verdict).__name__}, which is neither True nor False")
        return verdict is True

    def failed(self, error: Exception) -> None:
        """The callable has raised: that is a no."""
        self._tell(f"raised {type(error).__name__}")

    def _tell(self, words: str) -> None:
        if not self._told:
            self._told = True
            logging.getLogger("leakguard").warning(
                "leakguard: the authorize of %s() %s: the page answers 403; this is said once", self._function, words
            )
