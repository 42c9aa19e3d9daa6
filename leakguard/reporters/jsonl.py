"""Events as JSON Lines: one object a line, UTF-8, written at once. And the way back, for `leakguard report`."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache, partial
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from leakguard.model import SCHEMA, Event, Exhausted, Leak, Recovered, Snapshot, Summary
from leakguard.process.native import Lock

if TYPE_CHECKING:
    from pathlib import Path

_T = TypeVar("_T")
_Decoder: TypeAlias = Callable[[object], object]
_Identity: TypeAlias = tuple[int, int]  # device and inode: which file a descriptor or a path stands for

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_PRIVATE: Final = 0o600  # an event names hosts, users and statements
_SANE_NUMBER: Final = 10.0**15  # beyond it, arithmetic with a number from a damaged file may overflow
_SANE_YEARS: Final = range(1900, 9000)

UNKNOWN_TIME: Final = datetime.fromtimestamp(0, UTC)
"""What `decode` gives where a writer has left out a time."""


class JsonlReporter:
    """Appends events to a file, which it creates with mode 0600; `path` is fixed to today's working directory.

    Raises OSError from the constructor where the file cannot be opened, so that a bad path is found before the first
    leak is, and from `report` where the event could not be written whole (a full disk): the caller counts it, and the
    next event starts on a line of its own.

    Every line is one ``write`` to a descriptor in append mode: the system puts each at the end of the file in one
    piece, so processes may share the file without knowing each other, forked children included. The file may be
    rotated or removed at any time. Thread-safe: the lock is not for the line but for the descriptor, which must not
    be closed by a thread that has seen the file rotated while another is about to write to it.
    """

    __slots__ = ("_descriptor", "_identity", "_locks", "_path", "_torn")

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._descriptor = -1
        self._identity: _Identity | None = None
        self._torn = False  # whether the file ends in the middle of a line of ours
        # One lock a process: in a forked child the parent's lock may be held for ever, by a thread that is not there.
        self._locks: dict[int, threading.Lock] = {}
        with self._lock():
            self._open()

    def report(self, event: Event) -> None:
        """Append the event as one line."""
        line = encode(event)
        with self._lock():
            self._open()
            if self._torn:
                line = b"\n" + line
            self._write(line)

    def close(self) -> None:
        """Close the file. A later event opens it again."""
        with self._lock():
            if self._identity is not None and _identity_of(self._descriptor) == self._identity:
                os.close(self._descriptor)
            self._descriptor, self._identity = -1, None

    def _lock(self) -> threading.Lock:
        return self._locks.setdefault(os.getpid(), Lock())  # atomic: two threads get the same lock

    def _open(self) -> None:
        """Make the descriptor stand for the file that the path names now."""
        # The application may have closed our descriptor with all the others (daemons do), and have opened something
        # of its own in its place: neither write to that nor close it.
        ours = self._identity is not None and _identity_of(self._descriptor) == self._identity
        if ours and _identity_of(self._path) == self._identity:
            return
        old = self._descriptor
        fresh = os.open(self._path, _FLAGS, _PRIVATE)
        # In this order: a process that forks meanwhile must not give its child a descriptor that is closed already.
        self._descriptor, self._identity, self._torn = fresh, _identity_of(fresh), False
        if ours:
            os.close(old)

    def _write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        finally:
            if len(rest) != len(line):  # else nothing was written, and the file ends as it did
                self._torn = bool(rest)


def _identity_of(file: int | Path) -> _Identity | None:
    try:
        status = os.stat(file)  # noqa: PTH116 - of a descriptor too
    except OSError:
        return None
    return status.st_dev, status.st_ino


def encode(event: Event | Snapshot) -> bytes:
    """The event as one line, the newline included."""
    text = json.dumps(event.to_dict(), ensure_ascii=False, separators=(",", ":"))
    # A file name that is no text holds lone surrogates. As \udcXX they are a JSON escape, and read back the same.
    return text.encode("utf-8", "backslashreplace") + b"\n"


# ------------------------------------------------------------------------------------------------------ reading back


class DamagedError(ValueError):
    """The line is no leakguard event: it is damaged, or somebody else's."""


class UnknownSchemaError(ValueError):
    """The event is of a schema that this version does not know. ``str()`` is that schema."""


class UnknownEventError(ValueError):
    """An event of the known schema, of a name that a later version has added. ``str()`` is the name."""


_EVENTS: Final[Mapping[str, type[object]]] = {
    "leak": Leak,
    "recovered": Recovered,
    "exhausted": Exhausted,
    "summary": Summary,
    "snapshot": Snapshot,
}


def decode(line: bytes) -> tuple[Event | Snapshot, Mapping[str, object]]:
    """The event of one line (or the snapshot, which `dump` and incident files have), and the object it was made from.

    Lenient where it is safe: keys that are not known are ignored, a missing one reads as null, zero or empty, because
    other writers and older versions may not have it. A value of the wrong type is damage. Raises `DamagedError`,
    `UnknownSchemaError` or `UnknownEventError`, and nothing else, whatever the bytes are.
    """
    try:
        data = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError, MemoryError):
        raise DamagedError("not JSON") from None
    if not isinstance(data, dict) or "schema" not in data or "event" not in data:
        raise DamagedError("not a leakguard event")
    schema, name = data["schema"], data["event"]
    if type(schema) is not int or schema != SCHEMA:
        raise UnknownSchemaError(_brief(schema))
    if not isinstance(name, str):
        raise DamagedError("event: not a string")
    if name not in _EVENTS:
        raise UnknownEventError(_brief(name))
    if name in ("leak", "recovered") and not data.get("fingerprint"):
        raise DamagedError("fingerprint: missing")
    return cast("Event | Snapshot", decoder_of(_EVENTS[name])(data)), data


def decoder_of(cls: type[_T]) -> Callable[[object], _T]:
    """What makes a record of a type of the model, or one that is made like those, of a JSON object.

    It is as lenient as `decode`, and raises `DamagedError`.
    """
    hint: Any = cls
    return cast("Callable[[object], _T]", _decoder(hint))


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _brief(value: object) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        text = "..."
    return text if len(text) <= 40 else text[:37] + "..."


@cache
def _decoder(hint: Any) -> _Decoder:
    """What turns a JSON value into the type that the model asks for. The model's types are few: just these."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):  # every union of the model is "or null"
        return _optional(_decoder(next(argument for argument in arguments if argument is not NoneType)))
    if origin is Literal:
        return partial(_one_of, arguments)
    if origin is tuple:
        return partial(_many, _decoder(arguments[0]))
    if origin is Mapping:
        return partial(_mapping, _decoder(arguments[1]))
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        decoders = [(item.name, _decoder(hints[item.name])) for item in fields(hint) if item.init]
        return partial(_record, cast("type[object]", hint), decoders)
    if hint is datetime:
        return _time
    return partial(_number if hint in (int, float) else _typed, hint)


def _optional(decoder: _Decoder) -> _Decoder:
    return lambda value: None if value is None else decoder(value)


def _one_of(options: Sequence[object], value: object) -> object:
    if value in options:
        return value
    if value is None and "unknown" in options:
        return "unknown"
    raise DamagedError(f"{_brief(value)} is not known")


def _many(decoder: _Decoder, value: object) -> tuple[object, ...]:
    return tuple([decoder(item) for item in _typed(list, value)])


def _mapping(decoder: _Decoder, value: object) -> dict[str, object]:
    return {key: decoder(item) for key, item in _typed(dict, value).items()}


def _record(cls: Callable[..., object], decoders: Sequence[tuple[str, _Decoder]], value: object) -> object:
    data = _typed(dict, value)
    values: dict[str, object] = {}
    for name, decoder in decoders:
        try:
            values[name] = decoder(data.get(name))
        except DamagedError as error:
            raise DamagedError(f"{name}: {error}") from None
    return cls(**values)


def _typed(kind: type[_T], value: object) -> _T:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise DamagedError(f"not a {kind.__name__}")
    return value


def _number(kind: type[int] | type[float], value: object) -> int | float:
    if value is None:
        return kind(0)
    # Not isinstance: true is an int to Python. And an int will do where a float is asked for.
    if not (type(value) is int or (kind is float and type(value) is float)):
        raise DamagedError("not a number")
    if not abs(value) <= _SANE_NUMBER:  # so written, it refuses infinity too
        raise DamagedError("out of range")
    return kind(value)


def _time(value: object) -> datetime:
    if value is None:
        return UNKNOWN_TIME
    try:
        moment = datetime.fromisoformat(_typed(str, value))
    except ValueError:
        raise DamagedError("not a time") from None
    if moment.year not in _SANE_YEARS:
        raise DamagedError("out of range")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
