"""Where the sockets are: ``leakguard-<uid>/<pid>.sock`` below the runtime directory of the user, else below /tmp.

A directory is trusted only if it belongs to the user whose number it has, nobody else may enter it (0700), and nobody
else may put another one in its place. It is opened once and used through its descriptor, so that what was checked is
what is used. Everything here is of the standard library, and thread-safe.
"""

from __future__ import annotations

import _socket
import errno
import os
import re
import stat
from collections.abc import Iterator
from typing import Final

PATH_LIMIT: Final = 107
"""The longest path of a Unix socket, in bytes."""
BACKLOG: Final = 128
"""How many may wait until the process takes up their call."""
_SOCKET: Final = r"([1-9]\d{0,9})\.(?:sock|new)"
_DIRECTORY: Final = r"leakguard-(\d{1,10})"


class UntrustedError(Exception):
    """The directory is not to be used; the text says why."""


def parents() -> list[str]:
    """The directories below which this process would have its own, the best first."""
    named = (os.environ.get("XDG_RUNTIME_DIR"), os.environ.get("TMPDIR"), "/tmp")
    return list(dict.fromkeys(os.path.abspath(path) for path in named if path))


def directory_of(parent: str, uid: int) -> str:
    """The directory of a user's sockets."""
    return os.path.join(parent, f"leakguard-{uid}")


def socket_of(directory: str, pid: int) -> str:
    """The socket of a process."""
    return os.path.join(directory, f"{pid}.sock")


def opened(directory: str, uid: int) -> int:
    """A descriptor of the directory, which has to be closed. Raises UntrustedError, and OSError where there is none."""
    above = os.stat(os.path.dirname(directory))
    # Whoever may rename the directory could put another one in its place, right after these checks.
    if above.st_uid not in (0, uid) or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
        raise UntrustedError(f"{os.path.dirname(directory)} is not safe: others could replace {directory}")
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise UntrustedError(f"{directory} is a link or a file, no directory") from None
        raise
    found = os.fstat(descriptor)
    problem = None
    if found.st_uid != uid:
        problem = f"{directory} belongs to user {found.st_uid}, not to {uid}"
    elif stat.S_IMODE(found.st_mode) != 0o700:
        problem = f"{directory} has mode {stat.S_IMODE(found.st_mode):04o}, not 0700"
    if problem is not None:
        os.close(descriptor)
        raise UntrustedError(problem)
    return descriptor


def listen() -> tuple[str, _socket.socket]:
    """The path of this process's socket, and the socket, in the first directory where that can be.

    It has its name only once it listens, so that whoever finds a name without a listener finds the rest of a process
    that was killed. Raises UntrustedError or OSError, where it can be nowhere, for the last directory.
    """
    problem: Exception = OSError(errno.ENOTSUP, "this system does not say who asks")
    for parent in parents() if hasattr(_socket, "SO_PEERCRED") else ():
        directory = directory_of(parent, os.geteuid())
        try:
            return _listen_in(directory, os.getpid())
        except (OSError, UntrustedError) as error:
            problem = error
    raise problem


def _listen_in(directory: str, pid: int) -> tuple[str, _socket.socket]:
    path, unnamed = socket_of(directory, pid), os.path.join(directory, f"{pid}.new")
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise UntrustedError(f"{path} is longer than the {PATH_LIMIT} bytes that a socket's path may have")
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    descriptor = opened(directory, os.geteuid())
    try:
        for other in pids_in(descriptor):
            if not _exists(other):
                remove_dead(descriptor, directory, other)
    finally:
        os.close(descriptor)
    remove(unnamed)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        listener.bind(unnamed)
        os.chmod(unnamed, 0o600)
        listener.listen(BACKLOG)
        os.rename(unnamed, path)
    except OSError:
        listener.close()
        raise
    return path, listener


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def remove_dead(descriptor: int, directory: str, pid: int) -> None:
    """Remove the socket of a process that does not listen any more. One of another namespace may, with a pid that does
    not exist in this one, so it is tried."""
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    link.setblocking(False)
    try:
        link.connect(reachable(descriptor, directory, f"{pid}.sock"))
    except (ConnectionRefusedError, FileNotFoundError):
        remove(f"{pid}.sock", descriptor)
        remove(f"{pid}.new", descriptor)
    except OSError:
        pass
    finally:
        link.close()


def remove(path: str, descriptor: int | None = None) -> None:
    """Remove a file, if it is there and may be."""
    try:
        os.unlink(path, dir_fd=descriptor)
    except OSError:
        pass


def reachable(descriptor: int, directory: str, name: str) -> str:
    """A path to a file of the opened directory that leads into that very one, where the system has such paths."""
    through = f"/proc/self/fd/{descriptor}"
    return os.path.join(through if os.path.exists(through) else directory, name)


def pids_in(descriptor: int) -> list[int]:
    """The processes that have, had, or are about to have a socket in the opened directory."""
    found = (re.fullmatch(_SOCKET, name) for name in os.listdir(descriptor))
    return sorted({int(match[1]) for match in found if match is not None})


def directories(uid: int) -> list[tuple[str, int]]:
    """The directories that may have sockets for this user to ask, with the user whose they are; for root, everybody's.

    Those whose path another environment has made are found by the sockets that are bound in them.
    """
    bases = parents()
    if uid == 0:
        bases += sorted(f"/run/user/{name}" for name in _listed("/run/user") if name.isdecimal())
    else:
        bases.append(f"/run/user/{uid}")
    found = {os.path.join(base, name) for base in bases for name in _listed(base) if re.fullmatch(_DIRECTORY, name)}
    found.update(_bound())
    owned = ((path, int(os.path.basename(path).rpartition("-")[2])) for path in sorted(found))
    return [(path, owner) for path, owner in owned if uid in (0, owner)]


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _bound() -> Iterator[str]:
    """The directories of all sockets of our kind that are bound, as the kernel tells anybody: by their first names."""
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            lines = table.read().splitlines()
    except OSError:
        return
    for line in lines:
        match = re.search(rf" (/.*/{_DIRECTORY})/\d+\.new$", line)
        if match is not None:
            yield match[1]
