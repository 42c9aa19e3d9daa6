"""Exceptions that a signal handler of the application's raises while leakguard's code happens to run.

Celery's soft time limit is one, and every timeout that is built on ``SIGALRM``. They are no errors of leakguard's, and
are meant for the application: whoever catches its own errors has to let these through.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CodeType


def is_interruption(error: BaseException) -> bool:
    """Whether a handler that is installed for a signal has raised it, or called what has."""
    trace, handlers = error.__traceback__, frozenset(_handlers())
    while trace is not None and trace.tb_frame.f_code not in handlers:
        trace = trace.tb_next
    return trace is not None


def let_through(error: BaseException) -> None:
    """Raise the error again if it is the application's; where that cannot be told, for want of memory, it is not."""
    try:
        interruption = is_interruption(error)
    except Exception:
        interruption = False
    if interruption:
        raise error


def _handlers() -> Iterator[CodeType]:
    import signal  # here: it takes a while, and most processes never have an error to ask about

    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        while isinstance(handler, functools.partial):
            handler = handler.func
        if callable(handler):
            function = getattr(handler, "__func__", handler)  # of a bound method
            code = getattr(function, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
            if isinstance(code, CodeType):
                yield code
