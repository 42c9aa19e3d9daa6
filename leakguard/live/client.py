"""Asks guarded processes what they hold: finds their sockets, asks all of them at once, and says who did not answer.

What comes back was written by another process, perhaps of another user: it is checked like a file of unknown origin.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from leakguard.live import places
from leakguard.live.answer import AnswerError, read
from leakguard.model import Json, Snapshot

TIMEOUT: Final = 2.0
"""Seconds that a process has for its answer."""
WHY_TIMEOUT: Final = 6.0
"""Seconds where it has to search for references first, which it does for two at most."""
ANSWER_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of the longest answer that is read; one with 10,000 holds has less than a million."""

Trouble: TypeAlias = Literal["gone", "foreign", "unguarded", "silent", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unanswered:
    """A process that could not be asked; `words` is one sentence that begins with it.

    `trouble` is ``gone`` (no such process), ``foreign`` (another user's), ``unguarded`` (it has no socket), ``silent``
    (no answer in time) or ``refused`` (an answer that cannot be used, such as another version's).
    """

    pid: int
    trouble: Trouble
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the processes said, and who said nothing; both by process id."""

    snapshots: tuple[Snapshot, ...]
    unanswered: tuple[Unanswered, ...]


def snapshots(
    *, pids: Iterable[int] | None = None, why: bool = False, holds: int | None = None, hold: int | None = None
) -> Answers:
    """Ask these guarded processes, by default all of this host that the caller may ask, what they hold right now.

    With `why`, the oldest hold of each bug comes with what keeps it alive (`HoldNow.kept_by`). `holds` is how many
    holds an answer may have at most, the oldest first; `hold` asks for the one with that id alone. Takes as long as
    the slowest process, two seconds at most, six with `why`. Removes the sockets of processes that were killed.
    Never raises for what it finds.
    """
    wanted = None if pids is None else frozenset(pids)
    calls = _calls(wanted)
    request: dict[str, Json] = {"ask": "snapshot", "why": why, "holds": holds, "hold": hold}
    _exchange(calls, json.dumps(request).encode() + b"\n", WHY_TIMEOUT if why else TIMEOUT)
    found: list[Snapshot] = []
    unanswered = [_unasked(pid) for pid in wanted or () if pid not in {call.pid for call in calls}]
    for call in calls:
        try:
            found.append(call.answer())
        except AnswerError as error:
            trouble: Trouble = "refused" if call.complete else "silent"
            unanswered.append(Unanswered(pid=call.pid, trouble=trouble, words=f"pid {call.pid} {error}"))
    return Answers(
        snapshots=tuple(sorted(found, key=lambda snapshot: snapshot.pid)),
        unanswered=tuple(sorted(unanswered, key=lambda one: one.pid)),
    )


# ------------------------------------------------------------------------------------------------------ who is there


def _calls(wanted: Collection[int] | None) -> list[_Call]:
    """A connection to each process that is wanted and listens."""
    found: dict[int, _Call] = {}
    for directory, owner in places.directories(os.geteuid()):
        try:
            descriptor = places.opened(directory, owner)
        except (OSError, places.UntrustedError):
            continue  # nobody's, or not to be trusted: no process of ours has a socket there
        try:
            for pid in places.pids_in(descriptor):
                if pid not in found and (wanted is None or pid in wanted):
                    link = _connect(descriptor, directory, pid, owner)
                    if link is not None:
                        found[pid] = _Call(pid, link)
        finally:
            os.close(descriptor)
    return list(found.values())


def _connect(descriptor: int, directory: str, pid: int, owner: int) -> socket.socket | None:
    """A connection to the process; None if nobody listens, and then the socket of a dead process is removed."""
    name = f"{pid}.sock"
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    link.setblocking(False)
    try:
        link.connect(places.reachable(descriptor, directory, name))
        # Not only who may ask is checked: what a link of somebody else's leads to must not be sent a request.
        if _peer_of(link) == owner:
            return link
    except ConnectionRefusedError:
        places.remove(name, descriptor)
    except BlockingIOError:  # more ask already than it has taken up: it hangs
        return link
    except OSError:  # it has just ended
        pass
    link.close()
    return None


def _peer_of(link: socket.socket) -> int:
    _, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(uid)


def _unasked(pid: int) -> Unanswered:
    """Why a process that was named has no socket for us."""
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError as error:
        if error.errno == errno.ENOENT:
            return Unanswered(pid=pid, trouble="gone", words=f"pid {pid} does not exist")
        owner = os.geteuid()
    if os.geteuid() not in (0, owner):
        words = f"pid {pid} belongs to user {owner}: ask as that user, or as root"
        return Unanswered(pid=pid, trouble="foreign", words=words)
    words = (
        f"pid {pid} is not guarded, or has used no database yet: start it with `leakguard run -- COMMAND`, "
        "or have it call leakguard.install()"
    )
    return Unanswered(pid=pid, trouble="unguarded", words=words)


# ---------------------------------------------------------------------------------------------------- the conversation


class _Call:
    """One process that is being asked."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.link = link
        self.said = bytearray()
        self.complete = False

    def answer(self) -> Snapshot:
        """What it said. Raises AnswerError where that is nothing, or nothing of use."""
        if not self.complete:
            raise AnswerError("did not answer in time: it hangs, or is stopped")
        return read(bytes(self.said))

    def listen(self) -> None:
        """Take what has come; at the end, or at an answer without end, hang up."""
        try:
            piece = self.link.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.said += piece
        # One line is all there is. The end of the connection comes later: its process may be busy again by then.
        self.complete = not piece or piece.endswith(b"\n") or len(self.said) > ANSWER_LIMIT


def _exchange(calls: Sequence[_Call], request: bytes, timeout: float) -> None:
    """Ask all of them at once, and listen until each has said everything, or the time is over."""
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for call in calls:
            try:
                call.link.sendall(request)
                selector.register(call.link, selectors.EVENT_READ, call)
            except OSError:  # it is not connected, or has ended
                pass
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for call in _ready(selector, left):
                call.listen()
                if call.complete:
                    selector.unregister(call.link)
    for call in calls:
        call.link.close()


def _ready(selector: selectors.BaseSelector, timeout: float) -> Iterator[_Call]:
    for key, _ in selector.select(timeout):
        yield key.data
