"""Subclasses for drivers whose own classes are C types, which can be neither patched nor, some of them, referred to.

A driver that takes a class of its user's (``connection_factory``, ``factory``) is given a subclass of that class. It
has the name, module and docstring of what it stands in for, and passes every ``isinstance``. It is built as
``class Connection(TheirConnection, ours)`` with `ours` right above the C type, so that it sees what remains after their
own methods have called ``super()``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from leakguard.integrations.direct import Method

KNOWN_LIMIT: Final = 100
"""The most classes of the application's that are remembered; a program that makes ever new ones starts afresh."""


class Subclasses:
    """The subclasses that stand in for `root`, a C type, and for the application's own subclasses of it.

    `inner` are methods of ours right above the C type, `outer` wrap a method from the outside, whatever the
    application's class makes of it. Thread-safe: a lost race makes a class twice.
    """

    def __init__(
        self, root: type, inner: Mapping[str, Method], outer: Mapping[str, Callable[[Method], Method]] | None = None
    ) -> None:
        self._root = root
        self._outer = outer or {}
        weakly = () if root.__weakrefoffset__ else ("__weakref__",)
        self._ours: Any = type(root.__name__, (root,), {**_looks(root), **inner, "__slots__": weakly})
        self._known: dict[type, type] = {}

    def of(self, cls: Any) -> Any:
        """The class to use for `cls`; `cls` itself where it is no class of the driver's, or one of these already."""
        found = self._known.get(cls) if isinstance(cls, type) else cls
        if found is None:
            if len(self._known) >= KNOWN_LIMIT:
                self._known.clear()
            found = self._known[cls] = self._made(cls)
        return found

    def has_made(self, instance: object) -> bool:
        """Whether it is an instance of one of these classes: a factory that is a function may return something else."""
        return isinstance(instance, self._ours)

    def _made(self, cls: type) -> type:
        if not issubclass(cls, self._root) or issubclass(cls, self._ours):
            return cls
        bases = (self._ours,) if cls is self._root else (cls, self._ours)
        outside = {name: wrap(getattr(cls, name)) for name, wrap in self._outer.items()}
        # Where the tracker writes its record, unless there is room for any attribute. Not in `ours`: with a slot there,
        # C could not lay out a class that derives from it and from another C type (psycopg2's ReplicationConnection).
        slots = () if cls.__dictoffset__ else ("_leakguard",)
        try:
            metaclass: Any = type(cls)
            made: type = metaclass(cls.__name__, bases, {**_looks(cls), **outside, "__slots__": slots})
        except Exception:  # a class that does not want to be derived from: it is not ours to insist
            return cls
        return made


def _looks(cls: type) -> dict[str, object]:
    return {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
