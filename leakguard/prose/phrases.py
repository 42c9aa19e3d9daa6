"""Single words, and pieces of a line: a verdict, a place, an owner, a server. Whatever is not ours is made harmless."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final, assert_never

from leakguard import redact
from leakguard.judging.wording import duration
from leakguard.model import KINDS, Boundary, Frame, Hold, Kind, Leak, Now, Owner, Server, Site, State, Summary

TEXT_LIMIT: Final = 2_000
"""Characters of one foreign string that are shown: an event read from a file may hold anything."""
_KIND_WORDS: Final[Mapping[Kind, str]] = {
    "dropped": "dropped connection",
    "orphaned": "orphaned connection",
    "lost_slot": "lost slot of a pool",
    "outstanding": "outstanding connection",
    "unclosed_pool": "unclosed pool",
    "overdue": "overdue checkout",
    "idle_in_transaction": "connection idle in transaction",
    "nested_acquire": "nested acquire from one pool",
}
_BOUNDARY_WORDS: Final[Mapping[Boundary, str]] = {
    "test": "after the test",
    "no_leaks": "after no_leaks()",
    "exit": "at exit",
}
_STATE_WORDS: Final[Mapping[State, str | None]] = {
    "idle": "idle",
    "active": "running a statement",
    "in_transaction": "in a transaction, no statement running",
    "in_error": "in a failed transaction, waiting for a rollback",
    "closed": "closed",
    "unknown": None,
}
_COLORS: Final[Mapping[str, str]] = {
    "LEAK": "1;31",
    "SUSPECT": "1;33",
    "ADVICE": "1;36",
    "EXHAUSTED": "1;31",
    "RECOVERED": "1;32",
    "HELD": "1",
    "ALLOWED": "1",
}


def severity(leak: Leak) -> tuple[bool, int]:
    """What sorts findings: the proven before the suspected, then the worst kinds first."""
    return not leak.certain, KINDS.index(leak.kind)


def verdict_of(leak: Leak) -> str:
    """How sure it is: LEAK is proven, SUSPECT is not, ADVICE is a habit that can hurt."""
    if leak.certain:
        return "LEAK"
    return "ADVICE" if leak.kind == "nested_acquire" else "SUSPECT"


def verdict(word: str, color: bool) -> str:
    """The verdict word, coloured if asked."""
    return f"\x1b[{_COLORS[word]}m{word}\x1b[0m" if color else word


def kind_words(kind: Kind, boundary: Boundary | None = None) -> str:
    """A kind as people say it. The kind's own name is in it, which is what the documentation explains."""
    words = _KIND_WORDS[kind]
    return f"{words} {_BOUNDARY_WORDS[boundary]}" if kind == "outstanding" and boundary is not None else words


def tally(leaks: int, suspicions: int, places: int) -> str:
    """``2 leaks, 1 suspicion, 3 places``."""
    parts = [plural(leaks, "leak")] if leaks or not suspicions else []
    if suspicions:
        parts.append(plural(suspicions, "suspicion"))
    return ", ".join([*parts, plural(places, "place")] if places else parts)


def plural(count: int, noun: str) -> str:
    """``1 leak``, ``2 leaks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def place(site: Site | None) -> str:
    """``path:line``, which editors and terminals can follow."""
    return f"{path(site.file)}:{site.line}" if site is not None else "(no application frame)"


def frame_words(frame: Frame | Site) -> str:
    """``path:line in function``."""
    return f"{path(frame.file)}:{frame.line} in {shown(frame.function)}"


def path(file: str) -> str:
    """`file`, relative to the working directory where it lies below that."""
    try:
        root = os.getcwd()  # noqa: PTH109 - pathlib takes longer to import than all of this module
    except OSError:  # the working directory has been removed
        return shown(file)
    # Not below "/": there, app/main.py would hide that the path is absolute.
    return shown(file.removeprefix(root + os.sep) if root != os.sep else file)


def shown(text: str) -> str:
    """Foreign text, harmless to a terminal and a log line, of bounded length."""
    return redact.visible(text, TEXT_LIMIT)


def quoted(name: str) -> str:
    """A foreign name in quotes."""
    return f'"{shown(name)}"'


def owner_words(test: str | None, task: str | None, thread: str | None, labels: Iterable[tuple[str, str]]) -> list[str]:
    """Who acquired, as far as it has a name: the test, task and thread, then the labels."""
    named = (("test", test), ("task", task), ("thread", thread))
    words = [f"{noun} {quoted(name)}" for noun, name in named if name is not None]
    return [*words, *(f"{shown(key)}={shown(value)}" for key, value in labels)]


def process_words(pid: int, process: str, host: str) -> str:
    """``pid 4242 (python app.py) on web1``; what is not known is left out."""
    command = f" ({shown(process)})" if process else ""
    return f"pid {pid}{command}" + (f" on {shown(host)}" if host else "")


def pool_words(name: str, library: str) -> str:
    """``"main" (psycopg_pool)``."""
    return f"{quoted(name)} ({shown(library)})"


def summary_words(event: Summary) -> str:
    """The counts of one process."""
    words = f"{event.acquired} acquired, {event.released} released, {event.held} still held"
    if event.leaked:
        words += f", {event.leaked} garbage-collected"
    found = [f"{count} {shown(kind)}" for kind, count in event.leaks.items() if count]
    words += f"; found: {', '.join(found) or 'nothing'}"
    if event.internal_errors:
        words += f"; {plural(event.internal_errors, 'internal error')} of leakguard, please report"
    return words


def state_words(state: State) -> str | None:
    """What the connection is doing; None where that is unknown."""
    return _STATE_WORDS[state]


def owner_pieces(owner: Owner) -> list[str]:
    """Who acquired, and in which process."""
    names = owner_words(owner.test, owner.task, owner.thread, owner.labels.items())
    return [*names, process_words(owner.pid, owner.process, owner.host)]


def now_words(now: Now, owner: Owner) -> list[str]:
    """Where the owner is now, the application's innermost frames first; nothing where that is unknown."""
    noun = "task" if owner.task is not None else "thread"
    match now.owner:
        case "ended":
            return [f"the {noun} has ended"]
        case "unknown":
            return []
        case "running":
            frames = [frame for frame in now.stack if frame.app][:3] or now.stack[:1]
            words = [f"the {noun} is at {frame_words(frame)}" for frame in frames[:1]]
            words += [f"called from {frame_words(frame)}" for frame in frames[1:]]
            return words or [f"the {noun} is still running"]
        case _:
            assert_never(now.owner)


def held_pieces(hold: Hold, at: datetime) -> list[str]:
    """For how long, and how much it was used, as of `at`."""
    pieces = [duration(hold.held_for)]
    if hold.last_used_at is not None:
        pieces.append(f"last used {duration(max((at - hold.last_used_at).total_seconds(), 0.0))} ago")
    if hold.statements is not None:
        pieces.append(plural(hold.statements, "statement"))
    return pieces


def server_pieces(server: Server | None) -> list[str]:
    """The server's end: backend, address, user, client port, as far as they are known."""
    if server is None:
        return []
    pieces = [f"backend pid {server.backend_pid}"] if server.backend_pid is not None else []
    host = f"[{server.host}]" if server.host and ":" in server.host else server.host
    address = (shown(host) if host else "") + (f":{server.port}" if server.port is not None else "")
    address += f"/{shown(server.dbname)}" if server.dbname else ""
    if address:
        pieces.append(address)
    if server.user:
        pieces.append(f"user {shown(server.user)}")
    if server.client_port is not None:
        pieces.append(f"client port {server.client_port}")
    return pieces
