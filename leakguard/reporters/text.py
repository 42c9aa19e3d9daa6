"""Events as text for people: plain ASCII of our own, 80 columns where possible, colour for the verdict alone.

The reader is tired and wants the line. So a block starts with what, how often and ``file.py:LINE``; then the source
line and the way there, then who held the connection and where that one is now, and last what to do. Paths and code are
never wrapped, so that terminals and editors can follow them. Every string that is not ours passes through
`redact.visible`: a thread's name must not move the cursor.

All functions here are pure, except that paths below the working directory are shown relative to it, and that the file
of the acquiring line is read: where it makes clear what is wrong, that is said instead of the general advice.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, TextIO, assert_never, cast

from leakguard import redact
from leakguard.cures import Cure, cure
from leakguard.judging.wording import duration
from leakguard.model import (
    KINDS,
    Boundary,
    Cause,
    Event,
    Exhausted,
    Frame,
    Hold,
    HolderGroup,
    Kind,
    Leak,
    Now,
    Owner,
    PoolInfo,
    Recovered,
    Server,
    Site,
    State,
    Summary,
)

WIDTH: Final = 80
"""Columns of a block, where paths and code allow it."""
FRAMES_SHOWN: Final = 10
"""How many frames of a stack are shown; a recursion must not bury the rest of the report."""
HOLDERS_SHOWN: Final = 10
"""How many places an exhausted pool's block lists."""

_LABEL: Final = len("called from: ")
_TEXT_LIMIT: Final = 2_000  # characters of one foreign string: an event read from a file may hold anything
_CODE_LIMIT: Final = 200  # what the parser is given; deep nesting makes it slow, or worse

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
_NOT_CURED: Final = frozenset[Kind]({"idle_in_transaction", "nested_acquire"})
"""What another way to acquire would not help."""
_STATE_WORDS: Final[Mapping[State, str | None]] = {
    "idle": "idle",
    "active": "running a statement",
    "in_transaction": "in a transaction, no statement running",
    "in_error": "in a failed transaction, waiting for a rollback",
    "closed": "closed",
    "unknown": None,
}
_CAUSE_WORDS: Final[Mapping[Cause, str]] = {
    "pool": "pool",
    "server": "the server has no connection slot left",
    "reserved": "the server's last connection slots are reserved",
    "role": "the role is at its connection limit",
    "database": "the database is at its connection limit",
    "pooler": "the connection pooler has no connection left",
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


# ------------------------------------------------------------------------------------------------------------ events


def render_event(event: Event, *, width: int = WIDTH, color: bool = False, all_frames: bool = False) -> str:
    """The text of any event, without a newline at its end; empty for what is not worth a line."""
    match event:
        case Leak():
            return render_leak(event, width=width, color=color, all_frames=all_frames)
        case Recovered():
            return _render_recovered(event, color=color)
        case Exhausted():
            return render_exhausted(event, width=width, color=color)
        case Summary():
            return render_summary(event)
        case _:
            assert_never(event)


def render_leak(
    leak: Leak, *, width: int = WIDTH, color: bool = False, all_frames: bool = False, kept_by: str | None = None
) -> str:
    """One finding as a block of lines. `all_frames` shows the frames of libraries too; `kept_by` says what keeps the
    connection alive, where somebody has searched for it."""
    return _leak_text(leak, (), width, color, all_frames, kept_by)


def _leak_text(
    leak: Leak, also: Iterable[str], width: int, color: bool, all_frames: bool, kept_by: str | None = None
) -> str:
    hold = leak.hold
    lines = [
        headline(
            verdict_of(leak),
            kind_words(leak.kind, leak.boundary),
            shown(leak.fingerprint),
            f"x{leak.count}",
            place(leak.site),
            color=color,
        )
    ]
    lines += acquisition(leak, all_frames=all_frames)
    if hold is not None:
        lines += packed("owner", owner_pieces(hold.owner), width)
        lines += listed("now", now_words(leak.now, hold.owner))
        lines += packed("held for", held_pieces(hold, leak.time), width)
        lines += packed("state", [state_words(hold.state)], width)
        lines += packed("last sql", [shown(hold.last_statement) if hold.last_statement else None], width)
        lines += packed("server", server_pieces(hold.server), width)
    lines += packed("pool", _pool_pieces(leak), width)
    lines += packed("healed", [_healed(leak)], width)
    lines += packed("also here", also, width)
    lines += prose("why", leak.reason, width)
    lines += remedy(leak, width, kept_by)
    return "\n".join(lines)


def remedy(leak: Leak, width: int, kept_by: str | None = None) -> list[str]:
    """What to do: where the source makes clear what is wrong, that, and the line to write instead."""
    found = cure_of(leak)
    lines = prose("fix", found.sentence if found is not None else leak.advice, width)
    lines += prose("kept by", kept_by, width) if kept_by is not None else []
    return [*lines, *(instead(found.after) if found is not None else ())]


def instead(code: str) -> list[str]:
    """The lines to write instead."""
    return listed("instead", map(shown, code.splitlines()))


def cure_of(leak: Leak) -> Cure | None:
    """What to write instead of the line that acquired, or that created the pool; None where the source is not at hand,
    has changed meanwhile, or leaves it open."""
    site, hold = leak.site, leak.hold
    if site is None or leak.kind in _NOT_CURED:
        return None
    if hold is not None:
        return cure(site.file, site.line, site.function, hold.library, hold.operation, code=site.code)
    return cure(
        site.file, site.line, site.function, leak.pool.library if leak.pool is not None else "", "", code=site.code
    )


def render_leaks(leaks: Sequence[Leak]) -> str:
    """Several findings: how many at how many places, then one block a fingerprint, the worst kinds first.

    The count of a block is how many of `leaks` it stands for, not how many the process has ever had.
    """
    groups: dict[str, list[Leak]] = {}
    for leak in leaks:
        groups.setdefault(leak.fingerprint, []).append(leak)
    ordered = sorted(groups.values(), key=lambda group: (min(severity(leak) for leak in group), -len(group)))
    blocks = [tally(sum(leak.certain for leak in leaks), sum(not leak.certain for leak in leaks), len(groups))]
    for group in ordered:
        kinds = Counter(leak.kind for leak in group)
        worst = min(reversed(group), key=severity)  # of the worst kind, the newest
        folded = replace(worst, count=kinds.pop(worst.kind))
        also = [f"{kind} x{count}" for kind, count in kinds.items()]
        blocks.append(_leak_text(folded, also, WIDTH, color=False, all_frames=False))
    return "\n\n".join(blocks)


def render_exhausted(event: Exhausted, *, width: int = WIDTH, color: bool = False) -> str:
    """Who holds the connections that somebody could not get: one line a place, with ``file.py:LINE`` in it."""
    what = _CAUSE_WORDS[event.cause]
    if event.pool is not None:
        what = f"{what} {quoted(event.pool)}" if event.cause == "pool" else f"{what} (pool {quoted(event.pool)})"
    limit = f" of {event.capacity}" if event.capacity is not None else ""
    lost = f", {plural(event.lost, 'slot')} lost" if event.lost else ""
    times = f"  x{event.count}" if event.count > 1 else ""
    lines = [f"{verdict('EXHAUSTED', color)} {what}: {event.held}{limit} held by this process{lost}{times}"]
    lines += prose("error", event.error, width)
    hidden = event.holders[HOLDERS_SHOWN:]
    pad = len(str(max((group.count for group in event.holders), default=0)))
    holders = [_holder(group, pad) for group in event.holders[:HOLDERS_SHOWN]]
    if hidden:
        holders.append(f"({sum(group.count for group in hidden)} more at {plural(len(hidden), 'other place')})")
    return "\n".join([*lines, *listed("held at", holders or ["no place that leakguard has seen"])])


def render_summary(event: Summary) -> str:
    """The counts of one process on one line; empty where there was neither a leak nor an internal error."""
    if not any(event.leaks.values()) and not event.internal_errors:
        return ""
    return f"summary of {process_words(event.pid, event.process, event.host)}: {summary_words(event)}"


def _render_recovered(event: Recovered, *, color: bool) -> str:
    words = f"{kind_words(event.kind)} came back after {duration(event.held_for)}"
    return headline("RECOVERED", words, shown(event.fingerprint), place(event.hold.site), color=color)


# ------------------------------------------------------------------------------------------- the lines of a block


def headline(word: str, *parts: str, color: bool) -> str:
    """The first line of a block: the verdict, then the parts, two spaces apart. Never wrapped, it ends in a path."""
    return f"{verdict(word, color)} " + "  ".join(parts)


def acquisition(leak: Leak, *, all_frames: bool = False) -> list[str]:
    """The line that acquired the connection and the application's way there; for a pool, the line that created it."""
    hold = leak.hold
    if hold is None:
        return source(leak.site, "where the pool was created")
    how = f"by {shown(hold.library)} {shown(hold.operation)}".rstrip()
    return [*source(leak.site, how, hold.operation), *callers(hold.stack, leak.site, all_frames=all_frames)]


def source(site: Site | None, how: str, operation: str = "") -> list[str]:
    """The function, and the source line with a marker under the call that did it (as far as that can be told)."""
    if site is None:
        return [f"  no application frame on the stack ({how})"]
    head = f"  in {shown(site.function)}, {how}"
    if not site.code:
        return [head]
    code = shown(site.code)
    start, end = call_span(code, operation)
    return [f"{head}:", f"      {code}", " " * (6 + start) + "~" * (end - start)]


def callers(stack: Sequence[Frame], site: Site | None, *, all_frames: bool = False) -> list[str]:
    """The application's way to the site, innermost first; the frames of libraries are only counted.

    Where there is no site, they are all there is to see, and so are shown.
    """
    if all_frames or site is None:
        frames, hidden, label = list(stack), 0, "stack"
    else:
        label = "called from"
        frames = [frame for frame in stack if frame.app]
        hidden = len(stack) - len(frames)
        if frames and (frames[0].file, frames[0].line) == (site.file, site.line):
            del frames[0]
    shown_frames = [frame_words(frame) for frame in (frames if all_frames else frames[:FRAMES_SHOWN])]
    if len(frames) > len(shown_frames):
        shown_frames.append(f"({plural(len(frames) - len(shown_frames), 'more frame')})")
    if hidden:
        shown_frames.append(f"({plural(hidden, 'library frame')} hidden)")
    return listed(label, shown_frames)


def listed(label: str, items: Iterable[str]) -> list[str]:
    """A labelled column, one item a line, never wrapped. No items, no lines."""
    return [f"  {label + ':' if at == 0 else '':{_LABEL}}{item}" for at, item in enumerate(items)]


def packed(label: str, pieces: Iterable[str | None], width: int) -> list[str]:
    """Pieces that belong together, as many on a line as fit; a piece is never broken. None is left out."""
    lines: list[str] = []
    for piece in pieces:
        if piece is None:
            continue
        if lines and 2 + _LABEL + len(lines[-1]) + 2 + len(piece) <= width:
            lines[-1] += f", {piece}"
        else:
            if lines:
                lines[-1] += ","
            lines.append(piece)
    return listed(label, lines)


def prose(label: str, text: str, width: int) -> list[str]:
    """A sentence or two, wrapped between words; `code` in backquotes stays in one piece."""
    line = shown(" ".join(text[: 2 * _TEXT_LIMIT].split()))  # the errors of servers have lines of their own
    lines: list[str] = []
    for word in re.findall(r"(?:`[^`]*`|\S)+", line):
        if lines and 2 + _LABEL + len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return listed(label, lines)


# ------------------------------------------------------------------------------------------------ words and pieces


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
    return redact.visible(text, _TEXT_LIMIT)


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


def _pool_pieces(leak: Leak) -> list[str]:
    pool = leak.pool
    if pool is None:
        return [quoted(leak.hold.pool)] if leak.hold is not None and leak.hold.pool is not None else []
    pieces = [pool_words(pool.name, pool.library)]
    usage = _usage(pool)
    if usage:
        pieces.append(usage)
    if pool.created_at is not None and pool.created_at != leak.site:
        pieces.append(f"created at {place(pool.created_at)}")
    return pieces


def _usage(pool: PoolInfo) -> str | None:
    if pool.open is None:
        return f"capacity {pool.capacity}" if pool.capacity is not None else None
    if pool.capacity is None:
        return f"{plural(pool.open, 'connection')} open"
    return f"{pool.open} of {plural(pool.capacity, 'connection')} open"


def _healed(leak: Leak) -> str | None:
    if leak.kind != "dropped":  # elsewhere there is nothing to heal
        return None
    return "yes, the library took the connection back by itself" if leak.healed else "no"


def _holder(group: HolderGroup, pad: int) -> str:
    where = frame_words(group.site) if group.site is not None else place(None)
    return f"x{group.count:<{pad}} {where}, oldest {duration(group.oldest)}  {shown(group.fingerprint)}"


# ------------------------------------------------------------------------------------------------------ the marker


def call_span(code: str, operation: str) -> tuple[int, int]:
    """Where in a source line the acquiring call stands: start and end column, all of the line if that is unclear.

    `operation` is the name of what was called, perhaps dotted. The line may be the beginning of a statement only.
    """
    everything = (0, len(code))
    # A backslash could be a bad escape sequence, about which the parser would print a warning of its own.
    if len(code) > _CODE_LIMIT or "\\" in code:
        return everything
    calls = _calls(code)
    name = operation.rpartition(".")[2]
    named = [call for call in calls if _called_name(call) == name]
    if len(named) != 1:
        # The driver's call lies deeper than this line: then the outermost call led there, if there is just one.
        named = [call for call in calls if not any(_contains(other, call) for other in calls)]
    if len(named) != 1:
        return everything
    encoded = code.encode("utf-8", "surrogatepass")  # the parser counts bytes
    end = named[0].end_col_offset
    return _column(encoded, named[0].col_offset), _column(encoded, end) if end is not None else len(code)


def _calls(code: str) -> list[ast.Call]:
    # "***" stands for a secret; as a literal of the same length it is Python again.
    for line in (code, code.replace("***", "'*'")):
        # The line may open a block, or a bracket that a later line closes: complete it as simply as possible.
        for ending in ("", " pass", ")", "): pass", "\nfinally: pass"):
            try:
                tree = ast.parse(line + ending)
            except (SyntaxError, ValueError, MemoryError, RecursionError):
                continue
            return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return []


def _called_name(call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return None


def _contains(outer: ast.Call, inner: ast.Call) -> bool:
    return outer is not inner and any(node is inner for node in ast.walk(outer))


def _column(encoded: bytes, offset: int) -> int:
    return len(encoded[:offset].decode("utf-8", "surrogatepass"))


# ---------------------------------------------------------------------------------------------------- the reporter


class TextReporter:
    """Writes every event that is worth a line to a text stream. Thread-safe: one write an event, no state.

    `stream` None is whatever ``sys.stderr`` is at the time of the event. `color` None means: on a terminal, unless
    ``NO_COLOR`` is set. What the stream raises goes to the caller.
    """

    __slots__ = ("_color", "_stream")

    def __init__(self, stream: TextIO | None = None, color: bool | None = None) -> None:
        self._stream = stream
        self._color = color

    def report(self, event: Event) -> None:
        """Write the event."""
        stream = self._stream if self._stream is not None else cast("TextIO | None", sys.stderr)
        if stream is None:  # a process without a console
            return
        text = render_event(event, color=wants_color(stream) if self._color is None else self._color)
        if text:
            stream.write(encodable(f"leakguard: {text}\n", stream))
            stream.flush()


def wants_color(stream: TextIO) -> bool:
    """Whether the stream is a terminal that shows colours, and nobody has set ``NO_COLOR``."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def encodable(text: str, stream: TextIO) -> str:
    """`text` with what the stream cannot encode written as escapes: a report in ASCII beats an exception."""
    encoding = getattr(stream, "encoding", None)
    return text.encode(encoding, "backslashreplace").decode(encoding) if encoding else text
