"""Does something at every line that leakguard runs within a piece of work: one line a run, until all have had it."""

from __future__ import annotations

import dis
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

import leakguard

Place: TypeAlias = tuple[CodeType, int, int | None]
"""A line, and the line that its function was called from."""

HOME = str(Path(leakguard.__file__).parent) + "/"
# Nothing can fail there, so whatever is raised there would be raised outside of every `try`.
NO_WORK = re.compile(r"try:|\w+ = None|pass|return")
NO_OPERATION = {dis.opmap["NOP"], dis.opmap["RESUME"]}


class _Run:
    """One run under `sys.settrace`: notes the places that it passes, and acts at the first pass of one of them."""

    def __init__(self, target: Place | None, act: Callable[[], object], *, wrappers: bool) -> None:
        self.passed: dict[Place, None] = {}
        self._target = target
        self._act = act
        self._wrappers = wrappers

    def call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        ours = code.co_filename.startswith(HOME) and (self._wrappers or not _calls_the_library(code))
        return self.line if ours else None

    def line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and _can_fail(frame):
            place = frame.f_code, frame.f_lineno, frame.f_back.f_lineno if frame.f_back else None
            first = place not in self.passed
            self.passed[place] = None
            if first and place == self._target:
                sys.settrace(None)
                self._act()
        return self.line


def _can_fail(frame: FrameType) -> bool:
    code = frame.f_code
    source = linecache.getline(code.co_filename, frame.f_lineno).partition("#")[0].strip()
    return code.co_code[frame.f_lasti] not in NO_OPERATION and not NO_WORK.fullmatch(source)


def _calls_the_library(code: CodeType) -> bool:
    """Whether it is one of the functions that stand for a library's: what is raised in them is the library's too."""
    return bool({"original", "function"} & set(code.co_freevars)) or code.co_name in ("_refusable", "<lambda>")


def at_every_line(
    work: Callable[[], object], act: Callable[[], object], *, wrappers: bool = True
) -> Iterator[tuple[str, BaseException | None]]:
    """Each line's place, and what the work raised when `act` was called there.

    Without `wrappers` not in the functions that call the library's own.
    """
    rehearsal = _Run(None, act, wrappers=wrappers)
    _do(work, rehearsal)
    for place in rehearsal.passed:
        run = _Run(place, act, wrappers=wrappers)
        raised = _do(work, run)
        if place in run.passed:
            yield f"{place[0].co_filename.removeprefix(HOME)}:{place[1]} {place[0].co_name}", raised


def _do(work: Callable[[], object], run: _Run) -> BaseException | None:
    sys.settrace(run.call)
    try:
        work()
    except BaseException as error:
        return error
    finally:
        sys.settrace(None)
    return None
