"""Why is it still alive? The shortest chain of what refers to an object, from the object outwards to a root.

A root is a local variable of a running frame, an exception that is being handled, a module's global, a class or a task.
The collector knows everything else, but not the locals of a frame that runs now: those are read from the frames.

Only types, names and identities are looked at: nothing here calls the application's code (no ``repr``, ``==``,
``hash``, ``isinstance`` or attribute access on a foreign object), and nothing stays alive or is changed afterwards.
A search stops the world for about 10 ms per 100,000 objects and step, so it is made on demand only, within a budget.
"""

from __future__ import annotations

import time

from leakguard.references.path import ReferencePath, Step, StepKind
from leakguard.references.search import Search

__all__ = ["ReferencePath", "Step", "StepKind", "reference_path"]


def reference_path(obj: object, *, budget: float = 0.25, max_objects: int = 1_000_000) -> ReferencePath:
    """The shortest chain from `obj` to what keeps it alive; the application's own chain rather than a library's.

    The search ends after about `budget` seconds. In a heap of more than `max_objects` it goes from the running frames
    and the modules inwards, through so many objects at most. The caller's frame counts unless it is leakguard's.
    Thread-safe. Other threads go on meanwhile, so a chain may be out of date when it is returned.
    """
    search = Search(obj, time.perf_counter() + budget, max_objects)
    try:
        return search.run()
    finally:
        search.forget()
