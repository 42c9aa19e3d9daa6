"""Whether a thread that does one job after the other still does the one that acquired.

The threads of an executor and of AnyIO are nobody's for long. What an earlier job has acquired there may be in good
hands: FastAPI runs the beginning of a dependency in one thread, the endpoint in the next, and the end in a third.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Final

from leakguard.register.stacks import FrameRules, Place, RawStack

_EXECUTOR: Final = f"{os.sep}concurrent{os.sep}futures{os.sep}thread.py"
_ANYIO: Final = f"{os.sep}anyio{os.sep}_backends{os.sep}"


def is_of_this_job(raw: RawStack, rules: FrameRules, skip: int) -> bool:
    """Whether what runs `skip` frames up may still be what acquired with the stack `raw`, in this same thread.

    In a thread that does jobs, a function of the application has to run now that stands in `raw`, at another
    instruction by now. In any other thread all is one job.
    """
    job: list[FrameType] = []
    for frame in _outwards(sys._getframe(skip + 1)):
        if _does_jobs(frame.f_code):
            break
        job.append(frame)
    else:
        return True
    then = dict(zip(raw[::2], raw[1::2], strict=True))
    return any(
        then.get(frame.f_code, frame.f_lasti) != frame.f_lasti
        and rules.place(frame.f_code.co_filename) is Place.APPLICATION
        for frame in job
    )


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _does_jobs(code: CodeType) -> bool:
    if code.co_name == "_worker":
        return code.co_filename.endswith(_EXECUTOR)
    return code.co_name == "run" and _ANYIO in code.co_filename
