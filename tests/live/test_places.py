"""Directories of sockets: only those are used that nobody else can enter, plant or replace."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from leakguard.live import places
from leakguard.live.places import UntrustedError


@pytest.fixture
def directory(runtime_dir: Path) -> Path:
    """This user's directory, as a process makes it."""
    path = Path(places.directory_of(str(runtime_dir), os.geteuid()))
    path.mkdir(mode=0o700)
    return path


def opened(directory: Path) -> None:
    os.close(places.opened(str(directory), os.geteuid()))


def test_own_and_closed_is_trusted(directory: Path) -> None:
    """The clean twin of everything below."""
    opened(directory)


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701, 0o500, 0o1700])
def test_other_modes_are_not(directory: Path, mode: int) -> None:
    """It is refused, not put right: somebody may be in it already."""
    directory.chmod(mode)
    with pytest.raises(UntrustedError, match=f"has mode {mode:04o}, not 0700"):
        opened(directory)


def test_a_link_is_not(runtime_dir: Path, directory: Path) -> None:
    """Not even to a directory that would do."""
    link = runtime_dir / "leakguard-link"
    link.symlink_to(directory)
    with pytest.raises(UntrustedError, match="a link or a file, no directory"):
        os.close(places.opened(str(link), os.geteuid()))


def test_a_file_is_not(runtime_dir: Path) -> None:
    """Somebody has put it there first."""
    (runtime_dir / "leakguard-file").touch()
    with pytest.raises(UntrustedError, match="a link or a file, no directory"):
        os.close(places.opened(str(runtime_dir / "leakguard-file"), os.geteuid()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_is_not(directory: Path) -> None:
    """Squatted before this user's first process."""
    os.chown(directory, 65534, 65534)
    with pytest.raises(UntrustedError, match="belongs to user 65534"):
        opened(directory)


def test_one_that_others_could_replace_is_not(runtime_dir: Path, directory: Path) -> None:
    """Above it, everybody may rename everything; with a sticky bit, as /tmp has, nobody but its owner may."""
    runtime_dir.chmod(0o777)
    with pytest.raises(UntrustedError, match="others could replace"):
        opened(directory)
    runtime_dir.chmod(0o1777)
    opened(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_one_below_a_strangers_directory_is_not(runtime_dir: Path, directory: Path) -> None:
    """The owner of a directory may rename what is in it, sticky bit or not."""
    os.chown(runtime_dir, 65534, 65534)
    with pytest.raises(UntrustedError, match="others could replace"):
        opened(directory)


def test_only_names_of_sockets_are_listed(directory: Path) -> None:
    """What else is there is nobody's."""
    for name in ("12.sock", "7.sock", "0.sock", "-1.sock", "x.sock", "12.sock.bak", "12.part", "99999999999.sock"):
        (directory / name).touch()
    descriptor = places.opened(str(directory), os.geteuid())
    assert places.pids_in(descriptor) == [7, 12]
    os.close(descriptor)


def test_the_first_parent_that_will_do_is_used(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """XDG_RUNTIME_DIR of another user, or none, and a path that is too long, lead to the next."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    monkeypatch.setenv("TMPDIR", str(runtime_dir))
    path, listener = places.listen()
    listener.close()
    assert Path(path).parent.parent == runtime_dir
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nonexistent")
    path, listener = places.listen()
    listener.close()
    assert Path(path).parent.parent == runtime_dir


def test_a_path_that_is_too_long_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """107 bytes, and no more."""
    monkeypatch.setattr(places, "parents", lambda: [str(tmp_path / ("x" * 100))])
    with pytest.raises(UntrustedError, match="longer than the 107 bytes"):
        places.listen()


def test_the_dead_are_removed_when_somebody_listens(runtime_dir: Path, directory: Path) -> None:
    """A socket without a listener is removed, one that somebody listens at is not, whatever its name."""
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(directory / "2147483600.sock"))
    dead.close()
    (directory / "2147483602.new").touch()  # killed before it listened
    foreign = socket.socket(socket.AF_UNIX)  # as of a container with a pid namespace of its own
    foreign.bind(str(directory / "2147483601.sock"))
    foreign.listen(1)
    path, listener = places.listen()
    assert sorted(entry.name for entry in directory.iterdir()) == sorted(["2147483601.sock", Path(path).name])
    listener.close()
    foreign.close()


def test_sockets_are_found_wherever_they_are_bound(
    runtime_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A service has another TMPDIR than whoever asks about it."""
    monkeypatch.setenv("TMPDIR", str(runtime_dir))
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    path, listener = places.listen()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert (str(Path(path).parent), os.geteuid()) in places.directories(os.geteuid())
    listener.close()


def test_other_users_are_looked_for_by_root_alone(runtime_dir: Path) -> None:
    """Whoever is not root has no business there."""
    (runtime_dir / "leakguard-4711").mkdir(mode=0o700)
    assert 4711 not in {owner for _, owner in places.directories(4712)}
    assert 4711 in {owner for _, owner in places.directories(0)}
