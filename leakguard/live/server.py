"""The socket of a guarded process: a thread of its own that answers whoever may ask, one question a connection.

It has to answer while the application spins, so it waits for the interpreter's lock as rarely as it can: it waits in
``accept()`` itself rather than in a selector first, and hands a whole answer to the system in one call. Only while
somebody has connected and asks nothing, or does not read, it waits for everybody by ``poll()``.

Nothing is called that gevent may have replaced, or that belongs to the application. Linux only: elsewhere the system
does not say who asks in a way that we know.
"""

from __future__ import annotations

import _socket
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from leakguard.live import places
from leakguard.process import daemon
from leakguard.process.native import RLock, get_ident, poll, sleep

if TYPE_CHECKING:
    import threading

NAME: Final = "leakguard-live"
QUESTION_LIMIT: Final = 4_096
"""Bytes of the longest question."""
CALLERS_LIMIT: Final = 16
"""The most connections that wait, to ask or to take the answer; the oldest makes room for a new one."""
ASK_WITHIN: Final = 2.0
"""Seconds in which a question has to be asked."""
TAKE_WITHIN: Final = 5.0
"""Seconds in which an answer has to be taken."""
SEND_WAIT: Final = 0.1
"""Seconds that the thread waits for a reader in the midst of an answer before it turns to others."""
REOPENED_LIMIT: Final = 3
"""How often a socket is made anew that the application has closed: daemons close everything that is open."""


class LiveServer:
    """Starts and ends the service of this process. Thread-safe; fork-safe through `forget`."""

    def __init__(self, answer: Callable[[bytes], bytes], say: Callable[[str], None]) -> None:
        self._answer = answer
        self._say = say
        self._lock = RLock()
        self._service: _Service | None = None

    def ensure(self) -> None:
        """Begin to serve, unless it does, or cannot. Called on rare occasions only: a new pool, a new connection."""
        if self._service is not None or sys.is_finalizing():
            return
        with self._lock:
            if self._service is None:
                service = _Service(self._answer, self._say)
                try:
                    service.thread = daemon.start(service.run, NAME)
                    self._service = service
                except RuntimeError:  # no thread can be started now: the next connection tries again
                    pass

    def stop(self) -> None:
        """Remove the socket, and wait for the thread's end."""
        with self._lock:
            service, self._service = self._service, None
        if service is not None:
            service.end()

    def forget(self) -> None:
        """In a forked child: the socket is the parent's, and so is everybody who is connected to it."""
        self._lock = RLock()
        service, self._service = self._service, None
        if service is not None:
            service.forget()


class _Caller:
    """A connection, and how far it has come."""

    __slots__ = ("answer", "deadline", "question")

    def __init__(self) -> None:
        self.question = b""
        self.answer: memoryview | None = None
        self.deadline = time.monotonic() + ASK_WITHIN


class _Service:
    """One socket, with its thread, until it is ended.

    `answer` gets the line of a question, and must not raise; `say` is told why there is no socket.
    """

    def __init__(self, answer: Callable[[bytes], bytes], say: Callable[[str], None]) -> None:
        self.thread: threading.Thread | None = None
        self._answer = answer
        self._say = say
        self._lock = RLock()
        self._ended = False
        self._path: str | None = None
        self._listener: _socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._callers: dict[_socket.socket, _Caller] = {}

    def end(self) -> None:
        """Remove the socket, so that nobody comes any more, and have the thread end."""
        with self._lock:  # after this, the thread opens none
            self._ended = True
            if self._path is not None:
                places.remove(self._path)
            if self._listener is not None and self._is_ours():
                self._listener.shutdown(_socket.SHUT_RDWR)  # accept() returns at once
        if self.thread is not None and self.thread.ident != get_ident():
            self.thread.join(1.0)

    def forget(self) -> None:
        """Close what was inherited; the thread does not exist here."""
        self._close()

    def run(self) -> None:
        """The thread."""
        try:
            for _ in range(REOPENED_LIMIT):
                self._open()
                self._serve()
        except (OSError, places.UntrustedError) as error:
            if not self._ended:
                self._say(f"{error}")
        finally:
            self._close()

    def _open(self) -> None:
        with self._lock:
            self._let_go()
            if not self._ended:
                self._path, self._listener = places.listen()
                self._identity = _identity_of(self._listener)

    def _is_ours(self) -> bool:
        # The application may have closed our descriptor, and opened something of its own in its place: to accept there
        # would take its callers away.
        return self._listener is not None and _identity_of(self._listener) == self._identity

    def _let_go(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None and _identity_of(listener) == self._identity:
            listener.close()
        elif listener is not None:
            listener.detach()  # else it would be closed, whatever it is now, with the object

    def _close(self) -> None:
        self._let_go()
        callers, self._callers = self._callers, {}
        for link in callers:
            link.close()

    # ------------------------------------------------------------------ callers

    def _serve(self) -> None:
        """Answer, until the service is ended, or the listening socket is gone."""
        while not self._ended and self._is_ours():
            if not self._callers or self._listener in self._ready():
                self._accept()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # what socket.accept() calls
        except OSError:  # it was ended; or the caller has gone, or no descriptor is left, and then the next comes
            if not self._ended:
                sleep(0.05)
            return
        link = _socket.socket(fileno=descriptor)
        if not _may_ask(link):
            link.close()
            return
        while len(self._callers) >= CALLERS_LIMIT:
            self._hang_up(next(iter(self._callers)))
        # A blocking socket with a time limit of the system's own: Python's would take a call more for each piece.
        link.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, struct.pack("ll", 0, int(SEND_WAIT * 1e6)))
        self._callers[link] = _Caller()
        self._listen(link)

    def _ready(self) -> list[_socket.socket | None]:
        """Wait for everybody. Attends to the callers, and returns the listening socket where somebody new is there."""
        assert self._listener is not None
        watched = {self._listener.fileno(): self._listener}
        poller = poll()
        poller.register(self._listener.fileno(), select.POLLIN)
        for link, caller in self._callers.items():
            watched[link.fileno()] = link
            poller.register(link.fileno(), select.POLLIN if caller.answer is None else select.POLLOUT)
        left = min(caller.deadline for caller in self._callers.values()) - time.monotonic()
        ready = [watched[descriptor] for descriptor, _ in poller.poll(max(left, 0) * 1000)]
        for link in ready:
            if link is self._listener:
                continue
            if self._callers[link].answer is None:
                self._listen(link)
            else:
                self._speak(link)
        now = time.monotonic()
        for link in [link for link, caller in self._callers.items() if caller.deadline < now]:
            self._hang_up(link)
        return [*ready]

    def _listen(self, link: _socket.socket) -> None:
        caller = self._callers[link]
        try:
            piece = link.recv(QUESTION_LIMIT, _socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        caller.question += piece
        line, newline, _ = caller.question.partition(b"\n")
        if newline:
            caller.answer = memoryview(self._answer(line))
            caller.deadline = time.monotonic() + TAKE_WITHIN
            self._speak(link)
        elif not piece or len(caller.question) >= QUESTION_LIMIT:
            self._hang_up(link)

    def _speak(self, link: _socket.socket) -> None:
        caller = self._callers[link]
        assert caller.answer is not None
        try:
            caller.answer = caller.answer[link.send(caller.answer, _socket.MSG_NOSIGNAL) :]
        except BlockingIOError:  # the caller does not read
            return
        except OSError:
            caller.answer = memoryview(b"")
        if not caller.answer:
            self._hang_up(link)

    def _hang_up(self, link: _socket.socket) -> None:
        self._callers.pop(link, None)
        try:
            link.shutdown(_socket.SHUT_RDWR)  # also where a process that was forked meanwhile has it open, too
        except OSError:
            pass
        link.close()


def _identity_of(link: _socket.socket) -> tuple[int, int] | None:
    try:
        status = os.fstat(link.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _may_ask(link: _socket.socket) -> bool:
    """Whether the caller is of this user, or root. The modes of directory and socket say the same; this cannot be
    changed by a careless chmod."""
    _, uid, _ = struct.unpack("3i", link.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, struct.calcsize("3i")))
    return uid in (0, os.geteuid())
