"""Which Unix sockets are connected with which, as Linux tells anybody who asks its socket diagnostics.

``/proc/net/unix`` does not say it, so the question goes over netlink (``man 7 sock_diag``).
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import Final

_SOCK_DIAG: Final = 4  # the netlink family
_BY_FAMILY: Final = 20
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_SHOW_PEER: Final = 4
_PEER: Final = 2  # UNIX_DIAG_PEER
_DONE: Final = 3
_ERROR: Final = 2
_HEADER: Final = struct.Struct("=IHHII")
_REQUEST: Final = struct.Struct("=BBHIIIII")
_MESSAGE: Final = struct.Struct("=BBBBIII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TIMEOUT: Final = 2.0


def peers() -> Mapping[int, int]:
    """The inode of each connected Unix socket and that of its other end; empty where the system does not tell."""
    if sys.platform != "linux":
        return {}
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _SOCK_DIAG) as link:
            link.settimeout(_TIMEOUT)
            link.sendall(_HEADER.pack(_HEADER.size + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
            return dict(_answers(link))
    except (OSError, struct.error):
        return {}


def _answers(link: socket.socket) -> Iterator[tuple[int, int]]:
    while True:
        data = link.recv(1 << 16)
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, *_ = _HEADER.unpack_from(data, at)
            if kind in (_DONE, _ERROR) or length < _HEADER.size:
                return
            pair = _pair(data[at + _HEADER.size : at + length])
            if pair is not None:
                yield pair
            at += _aligned(length)


def _pair(message: bytes) -> tuple[int, int] | None:
    inode = _MESSAGE.unpack_from(message)[4]
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == _PEER:
            (peer,) = struct.unpack_from("=I", message, at + _ATTRIBUTE.size)
            return (inode, peer) if peer else None
        at += max(_aligned(length), _ATTRIBUTE.size)
    return None


def _aligned(length: int) -> int:
    return (length + 3) & ~3
