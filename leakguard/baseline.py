"""The baseline: a file of known leaks, so that an old suite can turn the plugin on today and fail on new ones only.

One entry a bug, named by its fingerprint, which holds no line number: unrelated edits change nothing here. The counts
only go down by themselves; what goes up, an update says. Nothing in this module knows pytest.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, NoReturn, get_args

from leakguard.errors import LeakguardError
from leakguard.model import KINDS, Kind

VERSION: Final = 1
"""The version of the format that is written, and the only one that is read."""

_SIZE_LIMIT: Final = 10_000_000
_KEYS: Final = ("fingerprint", "file", "function", "kinds", "max", "reason")
_HEADER: Final = """\
# Known connection leaks. With --leakguard-baseline=THIS_FILE, `pytest --leakguard` fails only on leaks that are not
# listed here, and on more of a listed one than its `max`. An entry stands for one bug: its fingerprint is made of file
# and function names, without line numbers. `file` and `function` are for you; `kinds` (optional) narrows an entry to
# those kinds of leak.
#
# Fix a leak, then run the whole suite with --leakguard-update-baseline: the entry is lowered or removed. The update
# says each entry that it adds, lowers, raises or removes. Write into `reason` why a leak may stay for now: it is kept,
# comments are not.
"""


class BaselineError(LeakguardError, ValueError):
    """The file cannot be used. The text names the place and what is accepted there."""


class BaselineMissing(BaselineError):
    """There is no such file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A known leak. `kinds` empty means all of them."""

    fingerprint: str
    max_count: int
    file: str | None = None
    function: str | None = None
    kinds: tuple[Kind, ...] = ()
    reason: str | None = None

    @property
    def words(self) -> str:
        """``8f21c0a4d9e1 (export_orders in shop/orders.py)``."""
        return _words(self.fingerprint, self.file, self.function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a run found of one fingerprint: how many of each kind. `file` is relative to the project."""

    fingerprint: str
    counts: Mapping[Kind, int]
    file: str | None = None
    function: str | None = None

    @property
    def count(self) -> int:
        """How many of all kinds."""
        return sum(self.counts.values())

    @property
    def words(self) -> str:
        """``8f21c0a4d9e1 (export_orders in shop/orders.py)``."""
        return _words(self.fingerprint, self.file, self.function)


@dataclass(frozen=True, slots=True)
class Match:
    """A known leak, and what the run found of it."""

    entry: Entry
    found: Found

    @property
    def known(self) -> int:
        """How many of those that were found the entry speaks of: the ones of its kinds."""
        kinds = self.entry.kinds or KINDS
        return sum(count for kind, count in self.found.counts.items() if kind in kinds)

    @property
    def excess(self) -> int:
        """How many more were found than the entry covers; those of other kinds than its own are not covered."""
        return self.found.count - self.known + max(0, self.known - self.entry.max_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a run found, beside what is known. Only `new` and `more` are a failure."""

    new: tuple[Found, ...]
    more: tuple[Match, ...]
    known: tuple[Match, ...]
    """Exactly as many as the entry allows."""
    fewer: tuple[Match, ...]
    gone: tuple[Entry, ...]
    """Not found at all: worth saying after a full run only."""

    @property
    def fails(self) -> bool:
        """Whether there is anything that the baseline does not cover."""
        return bool(self.new or self.more)


Verb = Literal["added", "raised", "lowered", "removed"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that an update does to the file. `before` and `after` are the entry's `max`, 0 without an entry."""

    verb: Verb
    entry: Entry
    before: int
    after: int
    kinds: tuple[Kind, ...] = ()
    """The kinds that the entry covers only now."""

    def __str__(self) -> str:
        match self.verb:
            case "added":
                return f"added {self.entry.words}: at most {self.after}"
            case "removed":
                return f"removed {self.entry.words}: it no longer occurs"
            case _:
                counts = f": at most {self.after} instead of {self.before}" if self.after != self.before else ""
                kinds = f"; now also {', '.join(self.kinds)}" if self.kinds else ""
                return f"{self.verb} {self.entry.words}{counts}{kinds}"


@dataclass(frozen=True, slots=True)
class Update:
    """The new text of the file, and everything in it that differs from the old one."""

    text: str
    changes: tuple[Change, ...]

    @property
    def sentences(self) -> list[str]:
        """The changes in words, what went up first."""
        return [str(change) for change in self.changes]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The known leaks by their fingerprint."""

    entries: Mapping[str, Entry] = field(default_factory=dict)

    def compare(self, found: Iterable[Found]) -> Comparison:
        """Sort what a run found into new, more, known, fewer and gone; each in the order of the file."""
        by_name = _by_fingerprint(found)
        new = [one for name, one in by_name.items() if name not in self.entries and one.count]
        matches = [
            Match(self.entries[name], one) for name, one in by_name.items() if name in self.entries and one.count
        ]
        matches.sort(key=lambda match: _order(match.entry))
        seen = {match.entry.fingerprint for match in matches}
        return Comparison(
            new=tuple(sorted(new, key=_order)),
            more=tuple(match for match in matches if match.excess),
            known=tuple(match for match in matches if not match.excess and match.known == match.entry.max_count),
            fewer=tuple(match for match in matches if not match.excess and match.known < match.entry.max_count),
            gone=tuple(entry for entry in sorted(self.entries.values(), key=_order) if entry.fingerprint not in seen),
        )

    def updated(self, found: Iterable[Found], *, full: bool) -> Update:
        """The file as it would be if all of this were known.

        After a run that was not `full`, nothing is lowered or removed: what was not run may still leak.
        """
        compared = self.compare(found)
        entries = dict(self.entries)
        changes: list[Change] = []
        for one in compared.new:
            entry = Entry(fingerprint=one.fingerprint, file=one.file, function=one.function, max_count=one.count)
            changes.append(Change("added", entry, 0, one.count))
        for match in (*compared.more, *compared.known, *compared.fewer):
            change = _change(match, full=full)
            # Names may have been written when the site was unknown; a fingerprint's own never change.
            entries[match.entry.fingerprint] = change.entry if change is not None else _named(match.entry, match.found)
            if change is not None:
                changes.append(change)
        changes += [Change("removed", entry, entry.max_count, 0) for entry in compared.gone if full]
        for change in changes:
            entries[change.entry.fingerprint] = change.entry
            if change.verb == "removed":
                del entries[change.entry.fingerprint]
        changes.sort(key=lambda change: get_args(Verb).index(change.verb))
        return Update(Baseline(entries).text(), tuple(changes))

    def text(self) -> str:
        """The file, sorted by place."""
        blocks = [f"{_HEADER}\nversion = {VERSION}\n"]
        for entry in sorted(self.entries.values(), key=_order):
            lines = ["[[leak]]", f"fingerprint = {_toml(entry.fingerprint)}"]
            if entry.file is not None:
                lines.append(f"file = {_toml(entry.file)}")
            if entry.function is not None:
                lines.append(f"function = {_toml(entry.function)}")
            if entry.kinds:
                lines.append(f"kinds = [{', '.join(map(_toml, entry.kinds))}]")
            lines.append(f"max = {entry.max_count}")
            if entry.reason is not None:
                lines.append(f"reason = {_toml(entry.reason)}")
            blocks.append("\n".join(lines) + "\n")
        return "\n".join(blocks)


def _change(match: Match, *, full: bool) -> Change | None:
    entry, count = _named(match.entry, match.found), match.known
    if match.excess:
        others: tuple[Kind, ...] = ()
        if entry.kinds:
            others = tuple(kind for kind in KINDS if match.found.counts.get(kind) and kind not in entry.kinds)
        kinds = tuple(kind for kind in KINDS if kind in (*entry.kinds, *others)) if others else entry.kinds
        after = max(entry.max_count, match.found.count)
        return Change("raised", replace(entry, max_count=after, kinds=kinds), entry.max_count, after, others)
    if full and count < entry.max_count:
        return Change("lowered", replace(entry, max_count=count), entry.max_count, count)
    return None


def _named(entry: Entry, found: Found) -> Entry:
    return replace(entry, file=entry.file or found.file, function=entry.function or found.function)


# ------------------------------------------------------------------------------------------------------- reading


def load(path: str | os.PathLike[str]) -> Baseline:
    """Read the file. Raises BaselineMissing where there is none, BaselineError for anything that cannot be used."""
    name = os.fspath(path)
    try:
        with Path(name).open("rb") as stream:
            data = stream.read(_SIZE_LIMIT + 1)
    except FileNotFoundError:
        raise BaselineMissing(
            f"leakguard: there is no baseline {name}: --leakguard-update-baseline writes one"
        ) from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BaselineError(f"leakguard: the baseline {name} cannot be read: {why}") from None
    if len(data) > _SIZE_LIMIT:
        raise BaselineError(f"leakguard: the baseline {name} is larger than {_SIZE_LIMIT:,} bytes: this is none")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BaselineError(f"leakguard: {name}:{line}: the baseline is damaged: it is no UTF-8 text") from None
    return parse(text, name)


def parse(text: str, name: str = "baseline") -> Baseline:
    """The known leaks of a text; `name` is what errors call it. Raises BaselineError."""
    return _Reader(text, name).baseline()


class _Reader:
    def __init__(self, text: str, name: str) -> None:
        self._lines = text.splitlines()
        self._text = text.replace("\r\n", "\n")
        self._name = name

    def baseline(self) -> Baseline:
        for number, line in enumerate(self._lines, 1):
            if line.startswith(("<<<<<<< ", ">>>>>>> ")):
                self._fail(number, "a merge conflict: keep the entries of both sides, of two for one bug the larger")
        try:
            data = tomllib.loads(self._text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            found = re.search(r"\(at line (\d+), column \d+\)", str(error))
            words = re.sub(r" \(at .*\)$", "", str(error))
            self._fail(
                int(found[1]) if found else len(self._lines), f"the baseline is damaged, this is no TOML: {words}"
            )
        self._check_version(data)
        for key in data:
            if key not in ("version", "leak"):
                self._fail(self._line(None, key), f"unknown key `{key}`: a baseline has `version` and [[leak]] entries")
        entries = data.get("leak", [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self._fail(self._line(None, "leak"), "`leak` has to be entries that begin with [[leak]]")
        known: dict[str, Entry] = {}
        for index, raw in enumerate(entries):
            entry = self._entry(index, raw)
            if entry.fingerprint in known:
                first = self._line(list(known).index(entry.fingerprint), "fingerprint")
                self._fail(
                    self._line(index, "fingerprint"),
                    f'a second entry for fingerprint "{entry.fingerprint}", the first is in line {first}: '
                    "keep one, with the larger `max`",
                )
            known[entry.fingerprint] = entry
        return Baseline(known)

    def _check_version(self, data: Mapping[str, object]) -> None:
        version = data.get("version")
        line = self._line(None, "version")
        if "version" not in data:
            self._fail(1, f"there is no `version`: a leakguard baseline begins with `version = {VERSION}`")
        if isinstance(version, bool) or not isinstance(version, int):
            self._fail(line, f"version = {version!r} is not accepted: this leakguard reads version {VERSION}")
        if version > VERSION:
            self._fail(line, f"version {version} is of a newer leakguard: this one reads version {VERSION}, upgrade it")
        if version < VERSION:
            self._fail(
                line,
                f"version {version} is no longer read, only version {VERSION} is: "
                "delete the file and write it anew with --leakguard-update-baseline",
            )

    def _entry(self, index: int, raw: Mapping[str, object]) -> Entry:
        for key in raw:
            if key not in _KEYS:
                known = ", ".join(_KEYS)
                self._fail(self._line(index, key), f"unknown key `{key}`: an entry has {known}")
        fingerprint = raw.get("fingerprint")
        if not isinstance(fingerprint, str) or not re.fullmatch("[0-9a-f]{12}", fingerprint):
            self._refuse(index, "fingerprint", raw, "12 hex digits, as reports show them")
        count = raw.get("max")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            self._refuse(index, "max", raw, "a whole number above 0; remove the entry to allow none")
        kinds = raw.get("kinds", [])
        if not isinstance(kinds, list) or not all(kind in KINDS for kind in kinds):
            self._refuse(index, "kinds", raw, f"a list of {', '.join(KINDS)}")
        return Entry(
            fingerprint=fingerprint,
            max_count=count,
            file=self._string(index, "file", raw),
            function=self._string(index, "function", raw),
            kinds=tuple(kind for kind in KINDS if kind in kinds),
            reason=self._string(index, "reason", raw),
        )

    def _string(self, index: int, key: str, raw: Mapping[str, object]) -> str | None:
        value = raw.get(key)
        if value is not None and not isinstance(value, str):
            self._refuse(index, key, raw, "a string")
        return value

    def _refuse(self, index: int, key: str, raw: Mapping[str, object], accepted: str) -> NoReturn:
        if key not in raw:
            self._fail(self._line(index, key), f"this entry has no `{key}`: {accepted}")
        self._fail(self._line(index, key), f"{key} = {str(raw[key])[:80]!r} is not accepted: {accepted}")

    def _fail(self, line: int, words: str) -> NoReturn:
        raise BaselineError(f"leakguard: {self._name}:{line}: {words}") from None

    def _line(self, index: int | None, key: str) -> int:
        """Where the key of the entry with this index stands, as well as a look at the lines can tell."""
        entry, start = -1, 1
        for number, line in enumerate(self._lines, 1):
            if re.match(r"\s*\[\[\s*[\"']?leak", line):
                entry += 1
                if entry == index:
                    start = number
            elif entry == (-1 if index is None else index) and re.match(rf"\s*\[?[\"']?{re.escape(key)}\b", line):
                return number
        return start


# ------------------------------------------------------------------------------------------------------- writing


def write(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file in one step: whoever reads it meanwhile sees the old or the new one, and a full disk or a
    killed process leaves the old one. Raises BaselineError."""
    target = Path(os.path.realpath(path))  # of a symbolic link, the file behind it
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(_mode_for(target))
        Path(temporary).replace(target)
    except (OSError, ValueError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise BaselineError(f"leakguard: the baseline {os.fspath(path)} cannot be written: {why}") from None


def _mode_for(target: Path) -> int:
    """The file's own permissions, or those that a new file gets."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0o077)  # it can only be read by setting it
        os.umask(umask)
        return 0o666 & ~umask


def _by_fingerprint(found: Iterable[Found]) -> dict[str, Found]:
    """What was found, put together by bug: several workers may each have found some of it."""
    merged: dict[str, Found] = {}
    for one in found:
        before = merged.get(one.fingerprint)
        if before is None:
            merged[one.fingerprint] = one
            continue
        kinds = (*before.counts, *(kind for kind in one.counts if kind not in before.counts))
        counts = {kind: before.counts.get(kind, 0) + one.counts.get(kind, 0) for kind in kinds}
        merged[one.fingerprint] = replace(
            before, counts=counts, file=before.file or one.file, function=before.function or one.function
        )
    return merged


def _order(one: Entry | Found) -> tuple[str, str, str]:
    return one.file or "", one.function or "", one.fingerprint


def _words(fingerprint: str, file: str | None, function: str | None) -> str:
    where = " in ".join(part for part in (function, file) if part)
    return f"{fingerprint} ({where})" if where else fingerprint


def _toml(text: str) -> str:
    """A TOML string. A lone surrogate, which a file name may have and TOML does not know, becomes a question mark."""
    pieces = []
    for char in text:
        if char in '"\\':
            pieces.append(f"\\{char}")
        elif char < " " or "\x7f" <= char <= "\x9f" or char in "\u2028\u2029":
            pieces.append(f"\\u{ord(char):04x}")
        else:
            pieces.append(char if not "\ud800" <= char <= "\udfff" else "?")
    return f'"{"".join(pieces)}"'
