"""A start-up packet by hand: what a server says to it tells why it refuses, whatever language it speaks.

libpq keeps the SQLSTATE of a failed connect to itself, and the text is in the language of the server. But the raw
answer names the SQLSTATE and the function that refused, and a server that is completely full answers before it asks
for a password. A probe takes a slot for milliseconds, so one refusal is worth one probe, never a loop.
"""

from __future__ import annotations

import re
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Final

from leakguard.incident.doctor.login import Login
from leakguard.incident.doctor.model import Endpoint, Refusal, RefusalKind
from leakguard.redact import message

_PROTOCOL: Final = 3 << 16
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80877103)
_LONGEST: Final = 1 << 16  # no message before the first query is longer
_GOODBYE: Final = 1.0
_TLS_DEMANDED: Final = frozenset({"require", "verify-ca", "verify-full"})

# What SQLSTATE and routine mean together. PgBouncer names no routine, and says nearly everything with one SQLSTATE.
_ROUTINES: Final[dict[str, RefusalKind]] = {
    "InitProcess": "full",
    "InitPostgres": "reserved",
    "InitializeSessionUserId": "role",
    "CheckMyDatabase": "database",
}
_STATES: Final[dict[str, RefusalKind]] = {
    "28P01": "password",
    "3D000": "no_database",
    "57P03": "starting",
    "42501": "not_allowed",
    "53300": "full",
}
_POOLER: Final[tuple[tuple[str, RefusalKind], ...]] = (
    ("no more connections allowed", "pooler_full"),
    ("client connections exceeded", "pooler_full"),
    ("query_wait_timeout", "pooler_busy"),
    ("server login has been failing", "pooler_busy"),
    ("SSL required", "tls_required"),
    ("authentication failed", "password"),
    ("no such user", "no_role"),
    ("no such database", "no_database"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `refusal` is null if the server let us in, or stopped where only a password goes on."""

    refusal: Refusal | None
    admitted: bool


def probe(endpoint: Endpoint, *, sslmode: str, password: str | None, timeout: float) -> Answer:
    """Knock once. `password` is used only in ways that do not give it away. Never raises, never prints."""
    verified = sslmode.startswith("verify")
    login = Login(endpoint.user, password) if password and not verified else None
    answer = _knock(endpoint, login, timeout, tls=sslmode in _TLS_DEMANDED)
    if answer.refusal is None or answer.refusal.kind != "not_admitted" or sslmode in _TLS_DEMANDED:
        return answer
    # Not admitted in the clear: is it that the server wants TLS?
    encrypted = _knock(endpoint, login, timeout, tls=True)
    if encrypted.refusal is None or encrypted.refusal.kind not in ("not_admitted", "tls"):
        return Answer(refusal=_as(answer.refusal, "tls_required"), admitted=False)
    return answer


def _as(refusal: Refusal, kind: RefusalKind) -> Refusal:
    return Refusal(kind=kind, sqlstate=refusal.sqlstate, routine=refusal.routine, message=refusal.message)


def _knock(endpoint: Endpoint, login: Login | None, timeout: float, *, tls: bool) -> Answer:
    try:
        with _Wire(endpoint, timeout) as wire:
            if tls and not wire.encrypt():
                return _failed("tls", "the server does not offer TLS")
            return _converse(wire, endpoint, login)
    except _NotPostgres as error:
        return _failed("not_postgres", str(error))
    except TimeoutError:
        return _failed("no_answer", f"no answer within {timeout:g} s")
    except ssl.SSLError as error:
        return _failed("tls", f"TLS: {error.reason or error}")
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be one
        return _failed("unreachable", getattr(error, "strerror", None) or str(error))


def _failed(kind: RefusalKind, words: str) -> Answer:
    refusal = Refusal(kind=kind, sqlstate=None, routine=None, message=message(words))
    return Answer(refusal=refusal, admitted=False)


def _converse(wire: _Wire, endpoint: Endpoint, login: Login | None) -> Answer:
    wire.send(_startup(endpoint))
    while True:
        kind, body = wire.receive()
        match kind:
            case b"E":
                return _refused(_fields(body))
            case b"Z":
                wire.send(b"X\0\0\0\4")
                wire.drain()  # when the server has hung up, the slot is free again
                return Answer(refusal=None, admitted=True)
            case b"R" if len(body) >= 4:
                code = int.from_bytes(body[:4], "big")
                reply = b"" if code == 0 else login.answer(code, body[4:]) if login is not None else None
                if reply is None:
                    return Answer(refusal=None, admitted=False)
                if reply:
                    wire.send(b"p" + struct.pack("!i", len(reply) + 4) + reply)
            case b"K" | b"S" | b"N" | b"v":
                pass
            case _:
                raise _NotPostgres("what answers there is not PostgreSQL")


def _startup(endpoint: Endpoint) -> bytes:
    pairs = ("user", endpoint.user, "database", endpoint.database, "application_name", "leakguard doctor")
    body = b"".join(word.encode(errors="replace").replace(b"\0", b"") + b"\0" for word in pairs) + b"\0"
    return struct.pack("!ii", len(body) + 8, _PROTOCOL) + body


def _fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse, by their letters."""
    parts = body.split(b"\0")
    return {part[:1].decode("ascii", "replace"): part[1:].decode(errors="replace") for part in parts if part}


def _refused(fields: dict[str, str]) -> Answer:
    state, routine, words = fields.get("C"), fields.get("R"), fields.get("M", "")
    refusal = Refusal(kind=_kind(state, routine, words), sqlstate=state, routine=routine, message=message(words))
    return Answer(refusal=refusal, admitted=False)


def _kind(state: str | None, routine: str | None, words: str) -> RefusalKind:
    if routine is None:
        return next((kind for text, kind in _POOLER if text in words), "unknown")
    if state == "53300" and routine in _ROUTINES:
        return _ROUTINES[routine]
    if state == "28000":  # no line in pg_hba.conf, or: role does not exist, is not permitted to log in
        return "no_role" if routine == "InitializeSessionUserId" else "not_admitted"
    return _STATES.get(state or "", "unknown")


class _NotPostgres(Exception):
    """What answers does not speak the protocol."""


class _Wire:
    """A socket that gives up at a deadline, however slowly the other side talks."""

    def __init__(self, endpoint: Endpoint, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._host = endpoint.host
        if endpoint.host.startswith(("/", "@")):
            self._socket: socket.socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            path = f"{endpoint.host}/.s.PGSQL.{endpoint.port}"
            try:
                self._socket.connect("\0" + path[1:] if path.startswith("@") else path)
            except BaseException:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection((endpoint.host, endpoint.port), timeout)

    def __enter__(self) -> _Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._in_time().sendall(data)

    def receive(self) -> tuple[bytes, bytes]:
        """One message: its kind and its body."""
        kind, size = self._exactly(1), self._exactly(4)
        length = int.from_bytes(size, "big") - 4
        if not 0 <= length <= _LONGEST:
            if kind == b"E":  # too early to speak the protocol: a postmaster that cannot fork sends bare text
                words = (size + self._rest()).split(b"\0")[0]
                return b"E", b"SFATAL\0M" + words + b"\0R\0"
            raise _NotPostgres("what answers there is not PostgreSQL")
        return kind, self._exactly(length)

    def encrypt(self) -> bool:
        """Ask for TLS. No certificate is checked: nothing secret follows."""
        self.send(_SSL_REQUEST)
        said = self._exactly(1)
        if said != b"S":
            if said not in (b"N", b"E"):
                raise _NotPostgres("what answers there is not PostgreSQL")
            return False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        name = None if re.fullmatch(r"[\d.:a-fA-F]+", self._host) or self._host.startswith(("/", "@")) else self._host
        self._socket = context.wrap_socket(self._in_time(), server_hostname=name)
        return True

    def drain(self) -> None:
        """Read until the other side has hung up, for a second at most: what stands in between may not pass it on."""
        self._deadline = min(self._deadline, time.monotonic() + _GOODBYE)
        try:
            while self._in_time().recv(4096):
                pass
        except OSError:
            pass

    def _rest(self) -> bytes:
        found = b""
        while len(found) < 4096 and (more := self._in_time().recv(4096)):
            found += more
        return found

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            more = self._in_time().recv(count - len(found))
            if not more:
                raise _NotPostgres("what answers there hangs up at once" if not found else "it hung up halfway")
            found += more
        return found

    def _in_time(self) -> socket.socket:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._socket
