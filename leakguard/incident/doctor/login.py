"""Answers to a server's authentication requests, as far as they give no password away: SCRAM-SHA-256 and MD5."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
import unicodedata
from base64 import b64decode, b64encode
from typing import Final

_MECHANISM: Final = b"SCRAM-SHA-256"
_ITERATIONS_ACCEPTED: Final = 1_000_000  # a foreign server must not keep us computing


class Login:
    """One login. `answer` is called for each request in turn. Not thread-safe."""

    def __init__(self, user: str, password: str) -> None:
        self._user = user.encode()
        # libpq prepares the password so, where it is no plain ASCII.
        self._password = unicodedata.normalize("NFKC", password).encode()
        self._nonce = b64encode(secrets.token_bytes(18))
        self._first = b"n=,r=" + self._nonce

    def answer(self, code: int, body: bytes) -> bytes | None:
        """The content of the password message for this request; empty where none is due, None if we do not answer."""
        match code:  # the numbers of AuthenticationMD5Password, SASL, SASLContinue and SASLFinal
            case 5 if len(body) >= 4:
                inner = hashlib.md5(self._password + self._user, usedforsecurity=False).hexdigest()
                return (
                    b"md5" + hashlib.md5(inner.encode() + body[:4], usedforsecurity=False).hexdigest().encode() + b"\0"
                )
            case 10 if _MECHANISM in body.split(b"\0"):
                first = b"n,," + self._first
                return _MECHANISM + b"\0" + struct.pack("!i", len(first)) + first
            case 11:
                return self._final(body)
            case 12:
                return b""
            case _:
                return None

    def _final(self, challenge: bytes) -> bytes | None:
        try:
            fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
            salt, rounds = b64decode(fields[b"s"], validate=True), int(fields[b"i"])
            nonce = fields[b"r"]
        except (ValueError, KeyError):
            return None
        # A proof for a nonce that is not ours too could be made for somebody else.
        if not nonce.startswith(self._nonce) or not 0 < rounds <= _ITERATIONS_ACCEPTED:
            return None
        bare = b"c=biws,r=" + nonce
        salted = hashlib.pbkdf2_hmac("sha256", self._password, salt, rounds)
        key = hmac.digest(salted, b"Client Key", "sha256")
        signed = b",".join((self._first, challenge, bare))
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        return bare + b",p=" + b64encode(proof)
