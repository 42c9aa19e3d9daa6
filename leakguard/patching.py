"""Patches with exact undo, and hooks on imports that have not happened yet.

A patch remembers what ``vars(owner)`` held. Undoing puts that very object back, or removes the attribute where it was
inherited, but only where the attribute is still ours: if somebody wrapped it later, theirs stays, and our wrapper
below it has become inert because the tracker no longer knows anybody who watches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

Namespace: TypeAlias = "type | ModuleType"

_MISSING: Final = object()


class Patches:
    """A set of patches that is undone together, last first. Not thread-safe: install and uninstall hold a lock."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def replace(self, owner: Namespace, name: str, make: Callable[[Any], Any]) -> None:
        """Put ``make(original)`` in the place of the attribute `name`, as `owner` itself or a base class defines it.

        `make` gets what stands in the class body (a function, a classmethod object), not what ``getattr`` would bind,
        and its result is dressed with the original's name, docstring and signature.
        """
        before = vars(owner).get(name, _MISSING)
        original = before if before is not _MISSING else _inherited(owner, name)
        ours = make(original)
        setattr(owner, name, ours)

        def undo() -> None:
            if vars(owner).get(name, _MISSING) is not ours:
                return
            if before is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def wrap(self, owner: Namespace, name: str, wrapper: Callable[..., Any]) -> None:
        """Wrap a function that is not on the hot path, with wrapt: ``wrapper(wrapped, instance, args, kwargs)``."""
        import wrapt  # here, because it imports asyncio: most of what `leakguard run` starts needs neither

        self.replace(owner, name, lambda original: wrapt.FunctionWrapper(original, wrapper))

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Also do this when the patches are undone (remove an event listener)."""
        self._undo.append(undo)

    def undo(self) -> None:
        """Put everything back. Idempotent."""
        while self._undo:
            self._undo.pop()()


def dressed(ours: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """`ours` with the name, docstring, annotations and signature of `original`.

    For the few functions on the hot path: a closure costs a quarter of what a wrapt proxy does for each call.
    """
    for name in ("__module__", "__name__", "__qualname__", "__doc__", "__annotations__", "__type_params__"):
        if hasattr(original, name):
            setattr(ours, name, getattr(original, name))
    ours.__dict__.update(getattr(original, "__dict__", ()))  # a method of a C type has none
    ours.__wrapped__ = original  # type: ignore[attr-defined]
    return ours


def followed(original: Callable[..., Any], then: Callable[[Any], object]) -> Callable[..., Any]:
    """A method that calls `original`, then `then` with its instance, and has the very parameters of `original`.

    For methods whose code object somebody reads: SQLAlchemy takes the options that ``create_engine()`` accepts from the
    ``co_varnames`` of the pools' ``__init__``, so a wrapper with ``*args, **kwargs`` would make it refuse
    ``pool_pre_ping``.
    """
    code = original.__code__
    positional, keyword = code.co_argcount, code.co_kwonlyargcount
    names = list(code.co_varnames[: positional + keyword])
    more = iter(code.co_varnames[positional + keyword :])
    declared, passed = names[:positional], names[:positional]
    if code.co_flags & CO_VARARGS:
        declared, passed = [*declared, rest := f"*{next(more)}"], [*passed, rest]
    elif keyword:
        declared = [*declared, "*"]
    for name in names[positional:]:
        declared, passed = [*declared, name], [*passed, f"{name}={name}"]
    if code.co_flags & CO_VARKEYWORDS:
        declared, passed = [*declared, rest := f"**{next(more)}"], [*passed, rest]
    source = f"def followed({', '.join(declared)}):\n    _original({', '.join(passed)})\n    _then({names[0]})\n"
    made: dict[str, Any] = {"_original": original, "_then": then}
    exec(compile(source, "<leakguard>", "exec"), made)
    ours = made["followed"]
    ours.__defaults__, ours.__kwdefaults__ = original.__defaults__, original.__kwdefaults__
    return dressed(ours, original)


def _inherited(owner: Namespace, name: str) -> object:
    # Through the MRO's own dictionaries: getattr() would bind a classmethod to this class for ever.
    for base in getattr(owner, "__mro__", ()):
        if name in vars(base):
            return vars(base)[name]
    raise AttributeError(f"{owner.__name__} has no attribute {name!r}")


class ImportWatcher:
    """Calls a function right after one of the named modules has been imported, before its importer goes on.

    wrapt's post-import hooks would do, but cannot be taken back; this finder leaves `sys.meta_path` as it was. It is a
    meta path finder by its methods alone: importing `importlib.abc` would triple the time of our own import.
    """

    def __init__(self, hooks: dict[str, Callable[[], None]]) -> None:
        self._hooks = hooks
        self._searching: set[str] = set()

    def install(self) -> None:
        """Call the hooks of what has been imported already, and wait for the others."""
        sys.meta_path.insert(0, cast("Any", self))
        for name in list(self._hooks):
            if _is_imported(name):
                self._imported(name)

    def watch(self, name: str, hook: Callable[[], None]) -> None:
        """Wait for one module more, or call `hook` now if it has been imported already."""
        self._hooks[name] = hook
        if _is_imported(name):
            self._imported(name)

    def uninstall(self) -> None:
        """Wait no longer."""
        if self in sys.meta_path:
            sys.meta_path.remove(cast("Any", self))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Let the other finders find a named module, and have its loader tell us when it is done."""
        if fullname not in self._hooks or fullname in self._searching:
            return None
        self._searching.add(fullname)
        try:
            for finder in sys.meta_path:
                find = getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = None if finder is self or find is None else find(fullname, path, target)
                if spec is not None:
                    break
            else:
                return None
        finally:
            self._searching.discard(fullname)
        assert spec is not None
        if spec.loader is not None and hasattr(spec.loader, "exec_module"):
            _watch_loader(spec.loader, lambda: self._imported(fullname))
        return spec

    def _imported(self, name: str) -> None:
        hook = self._hooks.pop(name, None)
        if hook is not None and self in sys.meta_path:
            hook()


def _is_imported(name: str) -> bool:
    module = sys.modules.get(name)
    # A module that is being imported further up the stack is in sys.modules already, half made.
    return module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _watch_loader(loader: Any, imported: Callable[[], None]) -> None:
    # On the loader instance, which is made afresh for each module: its class, and module.__loader__, stay as they are.
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        try:
            execute(module)
        finally:
            vars(loader).pop("exec_module", None)
        imported()

    try:
        loader.exec_module = exec_module
    except AttributeError:  # a loader with slots: its module is simply not seen until the next install()
        return
