"""Where questions about this process are answered: by the socket, by an incident file, by ``runtime.snapshot()``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from leakguard.live import PROTOCOL
from leakguard.model import Frame, Json
from leakguard.process.native import RLock
from leakguard.register.stacks import resolve
from leakguard.register.tracker import Tracker
from leakguard.telling.census import HOLDS_LIMIT, Census, Question
from leakguard.telling.snapshot import Snapshots
from leakguard.version import __version__

if TYPE_CHECKING:
    from leakguard.guard import Guard
    from leakguard.live.server import LiveServer


class Host(Protocol):
    """What the desk needs of the runtime."""

    @property
    def tracker(self) -> Tracker:
        """The register of holds."""

    @property
    def snapshots(self) -> Snapshots:
        """Makes frozen values of records."""

    @property
    def guards(self) -> Sequence[Guard]:
        """All guards."""

    @property
    def internal_errors(self) -> int:
        """How many errors of leakguard's own were counted so far."""

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count and log, once, an error of leakguard's own."""

    def is_live(self) -> bool:
        """Whether a guard asks for the socket."""


class Desk:
    """Answers questions about this process, and has a socket for them while a guard wants it. Thread-safe."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = RLock()
        self._server: LiveServer | None = None

    def open(self) -> None:
        """Serve from now on, if that is wanted. Called on rare occasions only: a new pool, a new connection."""
        server = self._server
        if server is None and self._host.is_live():
            with self._lock:  # two threads with their first connections: one socket
                server = self._server or self._new_server()
                self._server = server
        if server is not None:
            server.ensure()

    def _new_server(self) -> LiveServer:
        from leakguard.live.server import LiveServer

        return LiveServer(self.answer, self._say)

    def close(self) -> None:
        """Serve no more."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def after_fork(self) -> None:
        """In a forked child: the parent's socket is not ours."""
        self._lock = RLock()
        if self._server is not None:
            self._server.forget()

    def answer(self, line: bytes) -> bytes:
        """The line that answers a question. Never raises."""
        import json  # here, because most processes are never asked

        answer: dict[str, Json] = {"protocol": PROTOCOL, "version": __version__}
        columns: Json = {}
        try:
            snapshot = self.census(_question(line))
            columns = snapshot.pop("columns")
            answer["snapshot"] = snapshot
        except QuestionError as error:
            answer["error"] = f"{error}"
        except Exception as error:
            self._host.internal_error("live", error)
            answer["error"] = f"an internal error of leakguard ({type(error).__name__})"
        text = json.dumps(answer)
        if isinstance(columns, dict) and columns:
            # A million letters of base64 have no need of being looked at one by one.
            told = ", ".join(f'"{name}": "{column}"' for name, column in columns.items())
            text = f'{text[:-2]}, "columns": {{{told}}}}}}}'
        return f"{text}\n".encode()

    def census(self, question: Question) -> dict[str, Json]:
        """What this process holds, with tables and columns for the holds."""
        host = self._host
        return self._census().take(question, list(host.guards), host.internal_errors)

    def search(self, ids: Collection[int]) -> Mapping[int, Sequence[str]]:
        """What keeps the holds with these ids alive, as far as they are still held: a line a step."""
        return self._census().searched([hold for hold in self._host.tracker.holds() if hold.serial in ids])

    def stack(self) -> tuple[Frame, ...]:
        """Where the caller's caller is."""
        recorder = self._host.tracker.recorder
        return resolve(recorder.capture_all(1)[1], recorder.rules)

    def _census(self) -> Census:
        return Census(self._host.tracker, self._host.snapshots)

    def _say(self, why: str) -> None:
        import logging

        logging.getLogger("leakguard").warning(
            "leakguard: this process has no socket for `leakguard ps`, `dump` and `top`: %s; everything else goes on. "
            "Make that directory yours alone (mode 0700), or set XDG_RUNTIME_DIR, or live=false.",
            why,
        )


class QuestionError(ValueError):
    """It is no question that this version knows; the text says what is wrong."""


def _question(line: bytes) -> Question:
    """What is asked. Raises QuestionError."""
    import json

    try:
        asked = json.loads(line)
    except (ValueError, RecursionError):
        raise QuestionError("the question is not JSON") from None
    if not isinstance(asked, dict) or asked.get("ask") != "snapshot":
        raise QuestionError('the only question is {"ask": "snapshot"}')
    why, holds, hold = asked.get("why", False), asked.get("holds"), asked.get("hold")
    if not isinstance(why, bool) or not _is_number(holds) or not _is_number(hold):
        raise QuestionError("why: true or false; holds, hold: a number from 0 on, or null")
    return Question(why=why, holds=HOLDS_LIMIT if holds is None else min(holds, HOLDS_LIMIT), hold=hold)


def _is_number(value: object) -> bool:
    return value is None or (type(value) is int and value >= 0)
