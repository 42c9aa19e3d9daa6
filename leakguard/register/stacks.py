"""Stacks: captured raw on the hot path, resolved to files, lines and source only when somebody reads them.

A raw stack is a flat tuple ``(code, lasti, code, lasti, ...)``, innermost frame first. It holds code objects, never
frames: a frame would keep its locals, and so the very connection, alive. Resolving needs no more than these pairs.

What makes a frame part of the application is decided by its file alone (`FrameRules`), so that the decision is one
dictionary look-up per frame on the hot path.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections import deque
from enum import IntEnum
from functools import lru_cache
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, Final, TypeAlias

from leakguard import redact
from leakguard.model import Frame, Site

RawStack: TypeAlias = "tuple[CodeType | int, ...]"

WINDOW: Final = 5
"""How many frames, from the site outwards, are recorded for every hold and looked at by the fingerprint.

The fast and the full stack must give one fingerprint, so both take the application frames of this same window.
"""
FULL_DEPTH: Final = 100
"""The most frames that are kept of one stack."""
REMEMBERED: Final = 64
"""How many durations of each site are remembered where thresholds are learned."""
FULL_STACKS_PER_SITE: Final = 3
"""With ``stacks="auto"``: how many holds of a site get their whole stack before the window is enough."""
SITES_LIMIT: Final = 10_000
"""The most sites that are remembered; beyond it, the table starts afresh (generated code makes sites without end)."""

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB: Final = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_INSTALLED: Final = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_DRIVERS: Final = [
    "psycopg",
    "psycopg_c",
    "psycopg_binary",
    "psycopg_pool",
    "psycopg2",
    "asyncpg",
    "aiosqlite",
    "sqlalchemy",
    "greenlet",
    "wrapt",
]
"""Whose frames are never a site. A generic integration adds its driver."""
_LOOP: Final = frozenset(f"{_STDLIB}asyncio{os.sep}{name}.py" for name in ("events", "base_events", "runners"))
"""The files of asyncio that run a loop. A task's stack ends there: what lies beyond only runs the loop."""
_TYPED_BY_HAND: Final = ("<stdin>", "<ipython", "<python-input", "<doctest", "<console>", "<input>")


class Place(IntEnum):
    """Whose code a frame runs. The order is the order of preference for a site."""

    LOOP = -1
    """The event loop's own frames: a stack that is followed beyond them is no longer the task's."""
    LIBRARY = 0
    """leakguard, a driver, a pool, SQLAlchemy or the standard library: never a site."""
    INSTALLED = 1
    """Some other installed package: a site only where no application frame exists."""
    APPLICATION = 2


# Names of their own: until Python 3.12, to look up a member of an Enum costs more than to call a function.
_APPLICATION: Final = Place.APPLICATION
_LIBRARY: Final = Place.LIBRARY
_LOOPING: Final = Place.LOOP


class FrameRules:
    """Decides which frames belong to the application. Thread-safe: a lost race computes the same answer twice."""

    __slots__ = ("app_packages", "places")

    def __init__(self, app_packages: tuple[str, ...] = ()) -> None:
        self.app_packages = app_packages
        self.places: dict[str, Place] = {}

    def place(self, file: str) -> Place:
        """Whose code `file` (a code object's ``co_filename``) is; remembered."""
        found = self.places.get(file)
        if found is None:
            if len(self.places) > SITES_LIMIT:  # exec() with ever new file names
                self.places.clear()
            found = self.places[file] = self._decide(file)
        return found

    def _decide(self, file: str) -> Place:
        if file.startswith("<"):
            return Place.APPLICATION if _is_typed_by_hand(file) else Place.LIBRARY
        if any(_belongs_to(file, package) for package in self.app_packages):
            return Place.APPLICATION
        if file.startswith(_PACKAGE) or any(_belongs_to(file, driver) for driver in _DRIVERS):
            return Place.LIBRARY
        if any(mark in file for mark in _INSTALLED):
            return Place.INSTALLED
        if file in _LOOP:
            return Place.LOOP
        return Place.LIBRARY if file.startswith(_STDLIB) else Place.APPLICATION


def know_driver(package: str, rules: FrameRules) -> None:
    """From now on, the files of this package are a driver's. A package that is one stays one, in this process."""
    if package not in _DRIVERS:
        _DRIVERS.append(package)
        rules.places.clear()


def _is_typed_by_hand(file: str) -> bool:
    # "<string>" is `python -c`, but also what exec() makes inside libraries (namedtuple, dataclass, SQLAlchemy).
    if file == "<string>":
        return getattr(sys.modules.get("__main__"), "__file__", None) is None
    return file.startswith(_TYPED_BY_HAND)


def _belongs_to(file: str, package: str) -> bool:
    """Whether `file` is part of the importable `package`, wherever that is installed (an editable install too)."""
    tail = package.replace(".", os.sep)
    for mark in _INSTALLED:
        if mark + tail + os.sep in file or file.endswith(mark + tail + ".py"):
            return True
    # A package that is loaded from a source tree; a frame of it can only run once sys.modules has it.
    home: str | None = getattr(sys.modules.get(package), "__file__", None)
    if not home:
        return False
    if os.path.basename(home).startswith("__init__."):
        return file.startswith(os.path.dirname(home) + os.sep)
    return file == home


class SitePoint:
    """One line of the program that acquires: its code position, and what has been learned about it."""

    __slots__ = ("code", "durations", "lasti", "left", "resolved", "suspect")

    def __init__(self, code: CodeType, lasti: int) -> None:
        self.code = code
        self.lasti = lasti
        self.left = FULL_STACKS_PER_SITE
        self.suspect = False
        self.resolved: Site | None = None
        self.durations: deque[float] | None = None

    def lasted(self, seconds: float) -> None:
        """A hold of this site has ended well after so many seconds; the latest of them are remembered."""
        durations = self.durations
        if durations is None:
            durations = self.durations = deque(maxlen=REMEMBERED)
        durations.append(seconds)

    def site(self) -> Site:
        """File, line, function and source of the point. Reads the source file the first time."""
        if self.resolved is None:
            file, line = _absolute(self.code.co_filename), line_of(self.code, self.lasti)
            source = linecache.getline(self.code.co_filename, line)
            self.resolved = Site(
                file=file,
                line=line,
                function=self.code.co_name,
                code=redact.code_line(source) if source.strip() else None,
            )
        return self.resolved


class Recorder:
    """Captures stacks at the cost that ``stacks=`` allows. Thread-safe without a lock: a lost race costs one stack."""

    __slots__ = ("_points", "mode", "rules")

    def __init__(self) -> None:
        self.rules = FrameRules()
        self.mode = "auto"
        self._points: dict[int, SitePoint] = {}

    def capture(self, skip: int) -> tuple[SitePoint | None, RawStack]:
        """The site and the stack of the caller, `skip` frames up. The hot path: a few frames, no source, no lines."""
        mode = self.mode
        if mode == "off":
            return None, ()
        places = self.rules.places
        try:
            start = _getframe(skip + 1)
        except ValueError:  # nobody called: a thread or greenlet was started on the library's own function
            start = _getframe()
        frame = start
        code = start.f_code
        place = places.get(code.co_filename)
        while place is _LIBRARY:
            outer = frame.f_back
            if outer is None:
                break
            frame = outer
            code = frame.f_code
            place = places.get(code.co_filename)
        if place is not _APPLICATION or code.co_filename == "<string>":
            found = self._outwards(frame)
            if found is None:
                return self._without_application(start)
            frame, code = found, found.f_code
        lasti = frame.f_lasti
        point = self._points.get(id(code) + lasti)
        if point is None or point.code is not code or point.lasti != lasti:
            point = self._new_point(code, lasti)
        if mode == "auto":
            if point.left > 0 or point.suspect:
                point.left -= 1
                return point, _walk(start, FULL_DEPTH)
            # Unrolled, and not called: at five frames a loop would cost as much as the walk itself.
            b = frame.f_back
            if b is None:
                return point, (code, lasti)
            c = b.f_back
            if c is None:
                return point, (code, lasti, b.f_code, b.f_lasti)
            d = c.f_back
            if d is None:
                return point, (code, lasti, b.f_code, b.f_lasti, c.f_code, c.f_lasti)
            e = d.f_back
            if e is None:
                return point, (code, lasti, b.f_code, b.f_lasti, c.f_code, c.f_lasti, d.f_code, d.f_lasti)
            return point, (
                code,
                lasti,
                b.f_code,
                b.f_lasti,
                c.f_code,
                c.f_lasti,
                d.f_code,
                d.f_lasti,
                e.f_code,
                e.f_lasti,
            )
        if mode == "full":
            return point, _walk(start, FULL_DEPTH)
        return point, (code, lasti)

    def _outwards(self, frame: FrameType) -> FrameType | None:
        """The innermost application frame from `frame` outwards; None if there is none before the event loop."""
        places, greenlet = self.rules.places, None
        while True:
            code = frame.f_code
            place = places.get(code.co_filename)
            if place is None:
                place = self.rules.place(code.co_filename)
            if place is _APPLICATION and (code.co_filename != "<string>" or not _is_generated(frame)):
                return frame
            outer = frame.f_back
            if outer is None:  # under SQLAlchemy's async engines, the application's frames are on the parent greenlet
                greenlet, outer = _parent(greenlet)
            if outer is None or place is _LOOPING:
                return None
            frame = outer

    def capture_all(self, skip: int) -> tuple[SitePoint | None, RawStack]:
        """Like `capture`, always with the whole stack: for what is rare, such as opening a connection or a pool."""
        if self.mode == "off":
            return None, ()
        try:
            start = sys._getframe(skip + 1)
        except ValueError:
            start = sys._getframe()
        raw = _walk(start, FULL_DEPTH)
        point = self.point_in(raw)
        return (point, raw) if point is not None else self._without_application(start)

    def _without_application(self, start: FrameType | None) -> tuple[SitePoint | None, RawStack]:
        # A service that is installed, a bare create_task: the whole stack is the best that can be told.
        raw = _walk(start, FULL_DEPTH)
        point = self.point_in(raw)
        if point is None:
            raw += _runner_of(start)
            point = self.point_in(raw)
        if point is not None and self.mode == "site":
            return point, (point.code, point.lasti)
        return point, raw

    def point_in(self, raw: RawStack) -> SitePoint | None:
        """The site of a raw stack."""
        at = site_index(raw, self.rules)
        if at is None:
            return None
        code, lasti = raw[at], raw[at + 1]
        assert isinstance(code, CodeType)
        assert isinstance(lasti, int)
        point = self._points.get(id(code) + lasti)
        if point is None or point.code is not code or point.lasti != lasti:
            point = self._new_point(code, lasti)
        return point

    def _new_point(self, code: CodeType, lasti: int) -> SitePoint:
        if len(self._points) > SITES_LIMIT:
            self._points.clear()
        # The entry keeps its code object alive, so its id cannot come back as another's. Two neighbouring code
        # objects could share a key (id + lasti): then they take turns, which costs time and nothing else.
        point = self._points[id(code) + lasti] = SitePoint(code, lasti)
        return point


def site_index(raw: RawStack, rules: FrameRules) -> int | None:
    """Where in `raw` the site stands: the innermost application frame, else the innermost installed package's."""
    fallback: int | None = None
    for at in range(0, len(raw), 2):
        place = rules.place(_code_at(raw, at).co_filename)
        if place is Place.APPLICATION:
            return at
        if place is Place.INSTALLED and fallback is None:
            fallback = at
    return fallback


def _walk(frame: FrameType | None, limit: int) -> RawStack:
    """The raw stack from `frame` outwards, continued on the parent greenlets, up to the loop or `limit` frames."""
    raw: list[CodeType | int] = []
    room = limit * 2
    greenlet = None
    while True:
        while frame is not None and len(raw) < room:
            if frame.f_code.co_filename in _LOOP:
                return tuple(raw)
            if not _is_generated(frame):
                raw.append(frame.f_code)
                raw.append(frame.f_lasti)
            frame = frame.f_back
        greenlet, frame = _parent(greenlet)
        if greenlet is None or len(raw) >= room:
            return tuple(raw)


def _is_generated(frame: FrameType) -> bool:
    """Whether the frame runs a function that exec() made: SQLAlchemy 2.0's decorators do, namedtuple and dataclass too.

    ``python -c`` gives its program the same file name, "<string>", and only the module tells them apart. A code object
    does not know its module, so such frames are left out where they are met, and a raw stack has none.
    """
    return frame.f_code.co_filename == "<string>" and frame.f_globals.get("__name__") != "__main__"


def _parent(greenlet: Any) -> tuple[Any, FrameType | None]:
    """The parent of a greenlet (None: of the running one), and the frame that it stands at.

    gevent's hub is nobody's parent: it runs its greenlets as a loop runs tasks, and what lies beyond has called none.
    """
    if greenlet is None and "greenlet" in sys.modules:
        greenlet = sys.modules["greenlet"].getcurrent()
    parent = getattr(greenlet, "parent", None)
    hub = getattr(sys.modules.get("gevent.hub"), "Hub", None)
    if parent is None or (hub is not None and isinstance(parent, hub)):
        return None, None
    return parent, parent.gr_frame


def _runner_of(frame: FrameType | None) -> RawStack:
    """The frames that run the current task itself, as in ``loop.run_until_complete(pool.getconn())``; else nothing."""
    while frame is not None:
        if frame.f_code.co_name == "run_until_complete" and frame.f_code.co_filename in _LOOP:
            asyncio = sys.modules["asyncio"]
            if frame.f_locals.get("future") is not asyncio.current_task():
                return ()
            caller = frame.f_back
            while caller is not None and caller.f_code.co_filename in _LOOP:  # asyncio.run()
                caller = caller.f_back
            return (frame.f_code, frame.f_lasti, *_walk(caller, WINDOW))
        frame = frame.f_back
    return ()


def is_delivery(raw: RawStack, rules: FrameRules) -> bool:
    """Whether no frame of the task or thread itself belongs to the application: it only fetched for somebody else."""
    at = site_index(raw, rules)
    if at is None:
        return bool(raw)
    return any(_code_at(raw, index).co_filename in _LOOP for index in range(0, at, 2))


def _code_at(raw: RawStack, index: int) -> CodeType:
    code = raw[index]
    assert isinstance(code, CodeType)
    return code


def raw_stack_of(frame: FrameType | None) -> RawStack:
    """The raw stack of a frame that is not the caller's own, such as another thread's."""
    raw: list[CodeType | int] = []
    while frame is not None and len(raw) < FULL_DEPTH * 2:
        raw += (frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return tuple(raw)


@lru_cache(maxsize=SITES_LIMIT)
def line_of(code: CodeType, lasti: int) -> int:
    """The line number of the instruction at byte offset `lasti`."""
    for start, end, line in code.co_lines():
        if start <= lasti < end and line is not None:
            return line
    return code.co_firstlineno


def resolve(raw: RawStack, rules: FrameRules) -> tuple[Frame, ...]:
    """The frames of a raw stack, innermost first, without leakguard's own."""
    frames: list[Frame] = []
    site = site_index(raw, rules)
    for at in range(0, len(raw), 2):
        code, lasti = raw[at], raw[at + 1]
        assert isinstance(code, CodeType)
        assert isinstance(lasti, int)
        place = rules.place(code.co_filename)
        if place is Place.LOOP and site is not None and at > site:
            break  # the window is not cut on the hot path: beyond the loop it shows who runs it
        if place is Place.LIBRARY and code.co_filename.startswith(_PACKAGE):
            continue
        frames.append(
            Frame(
                file=_absolute(code.co_filename),
                line=line_of(code, lasti),
                function=code.co_name,
                app=place is Place.APPLICATION,
            )
        )
    return tuple(frames)


@lru_cache(maxsize=SITES_LIMIT)
def _absolute(file: str) -> str:
    return file if file.startswith("<") else os.path.abspath(file)
