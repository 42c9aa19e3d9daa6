"""Which process of this host has which socket, from ``/proc``: no help of the process is needed, nor its library.

Only sockets of this network namespace are seen, and the owners of those that belong to our own user (root: to all).
Elsewhere than on Linux there is nothing to read, and everything is said to be unknown.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from leakguard import redact
from leakguard.incident.doctor import unix_peers
from leakguard.incident.doctor.model import Process

Address: TypeAlias = tuple[str, int]

_PROC: Final = Path("/proc")
_ESTABLISHED: Final = "01"
_LISTEN: Final = "0A"
_SOCKET: Final = re.compile(r"socket:\[(\d+)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Socket:
    """One TCP socket. `inode` is 0 once no process has it any more. `user` is the user id of its owner."""

    local: Address
    remote: Address
    state: str
    user: int
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """All TCP sockets of this host by their local and remote address, and the processes that have them.

    `readable` is false where the system does not tell. `peers` has both ends of each Unix socket.
    """

    readable: bool
    sockets: Mapping[tuple[Address, Address], Socket] = field(repr=False)
    by_local: Mapping[Address, tuple[Socket, ...]] = field(repr=False)
    owners: Mapping[int, tuple[int, ...]] = field(repr=False)
    peers: Mapping[int, int] = field(default_factory=dict, repr=False)

    def towards(self, local: Address, ports: Container[int] = ()) -> Socket | None:
        """The connected socket with this local address. Where several share it, the one to a port of `ports`, or the
        one that somebody has: what is left of a closed connection keeps its address for a minute."""
        found = [one for one in self.by_local.get(local, ()) if one.state != _LISTEN]
        return max(found, key=lambda one: (one.remote[1] in ports, one.inode != 0), default=None)

    def pids(self, one: Socket | None) -> tuple[int, ...]:
        """The processes that have this socket; after a fork, several."""
        return self.owners.get(one.inode, ()) if one is not None else ()

    def partners(self, pid: int) -> tuple[int, ...]:
        """The processes at the other ends of a process's Unix sockets, as far as both may be looked into."""
        others = {self.peers.get(inode) for inode, owners in self.owners.items() if pid in owners}
        found = {owner for inode in others if inode is not None for owner in self.owners.get(inode, ())}
        return tuple(sorted(found - {pid}))

    def has_other_end(self, client: Address) -> bool:
        """Whether the far end of a client's connection is on this host too, and alive."""
        return any(one.remote == client and one.inode for one in self.sockets.values())

    def is_ours(self, address: str) -> bool:
        """Whether some connection of this host comes from this address."""
        return any(local[0] == address for local in self.by_local)


NO_TABLE: Final = Table(readable=False, sockets={}, by_local={}, owners={})


def read(root: Path = _PROC) -> Table:
    """The table as it is now; about 20 ms on a busy host."""
    found: dict[tuple[Address, Address], Socket] = {}
    readable = False
    for name in ("tcp", "tcp6"):
        try:
            lines = (root / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        readable = True
        for line in lines:
            one = _socket(line)
            if one is not None:
                found[one.local, one.remote] = one
    by_local: dict[Address, list[Socket]] = {}
    for one in found.values():
        by_local.setdefault(one.local, []).append(one)
    return Table(
        readable=readable,
        sockets=found,
        by_local={local: tuple(sockets) for local, sockets in by_local.items()},
        owners=_owners(root) if readable else {},
        peers=unix_peers.peers() if readable else {},
    )


def _socket(line: str) -> Socket | None:
    fields = line.split()
    try:
        local, remote = _address(fields[1]), _address(fields[2])
        return Socket(local=local, remote=remote, state=fields[3], user=int(fields[7]), inode=int(fields[9]))
    except (ValueError, IndexError):
        return None


def _address(text: str) -> Address:
    """``0100007F:1538`` -> ``("127.0.0.1", 5432)``: words of 32 bits, each in the machine's byte order."""
    digits, _, port = text.partition(":")
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = b"".join(struct.pack("=I", word) for word in words)
    if len(packed) == 16 and packed.startswith(b"\0" * 10 + b"\xff\xff"):
        packed = packed[12:]  # IPv4 through an IPv6 socket
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed), int(port, 16)


def _owners(root: Path) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for pid in _pids(root):
        try:
            with os.scandir(root / str(pid) / "fd") as entries:
                targets = [os.readlink(entry.path) for entry in entries]  # noqa: PTH115 - there are thousands
        except OSError:  # of another user, or gone
            continue
        for target in targets:
            match = _SOCKET.fullmatch(target)
            if match is not None:
                found[int(match[1])] = (*found.get(int(match[1]), ()), pid)
    return found


def _pids(root: Path) -> Iterator[int]:
    try:
        yield from (int(entry.name) for entry in root.iterdir() if entry.name.isdigit())
    except OSError:
        return


def process(pid: int, root: Path = _PROC) -> Process:
    """The process of this number, by program and script alone."""
    try:
        words = (root / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        command = redact.process_title([word for word in words if word]) if any(words) else ""
    except OSError:
        command = ""
    return Process(pid=pid, command=command, host=os.uname().nodename, guarded=False)


def numbers_of(pid: int, root: Path = _PROC) -> tuple[int, ...]:
    """All numbers of a process: inside a container it has another one."""
    try:
        status = (root / str(pid) / "status").read_text()
    except OSError:
        return (pid,)
    found = re.search(r"^NSpid:((?:\s+\d+)+)$", status, re.MULTILINE)
    return tuple(int(number) for number in found[1].split()) if found else (pid,)
