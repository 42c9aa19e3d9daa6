"""Looking into an object without asking it: its namespace, slots, items and locals, past every method of its own."""

from __future__ import annotations

import sys
from collections import deque
from types import FrameType, GetSetDescriptorType, MemberDescriptorType, ModuleType
from typing import Any, Final, cast

from leakguard import redact

# Descriptors taken from `type` itself: a metaclass may override every one of these names, but not these.
_type_vars: Final[Any] = type.__dict__
_mro_of: Final = _type_vars["__mro__"].__get__
_dict_of: Final = _type_vars["__dict__"].__get__
vars_of_module: Final = cast("Any", vars(ModuleType))["__dict__"].__get__


def shown(text: str) -> str:
    """A name as it may be printed: of a subclass of str, past its methods; short, and without control characters."""
    return redact.visible(str.__str__(text), 100)


def locals_of(frame: FrameType) -> list[tuple[str, object]]:
    """The local variables of a function's frame; those of modules and classes are found as the namespaces they are."""
    code = frame.f_code
    if not code.co_flags & 0x1:  # CO_OPTIMIZED: a function
        return []
    names: Any = frame.f_locals
    found: list[tuple[str, object]] = []
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    if type(names) is not dict:  # Python 3.13: a window onto the frame
        for name in names:
            try:
                found.append((name, names[name]))
            except KeyError:  # unbound meanwhile
                continue
        return [item for item in found if item[0] in own]
    found = [(name, value) for name, value in list(names.items()) if type(name) is str and name in own]
    # Before 3.13 this was a copy, which the frame keeps, and with it every value that it had at this moment. Unless
    # the application has called locals() and holds that copy too, nobody misses it.
    if sys.getrefcount(names) <= 3:
        for name, _ in found:
            names.pop(name, None)
    return found


def local_name(frame: FrameType, value: object) -> str | None:
    """The local variable of a frame that has this very object."""
    return next((name for name, found in locals_of(frame) if found is value), None)


def namespace_of(obj: object) -> dict[Any, object] | None:
    """The ``__dict__`` of an instance, whatever its class makes of that name."""
    cls = type(obj)
    if issubclass(cls, (type, ModuleType)):
        return None
    for base in _mro_of(cls):
        descriptor = _dict_of(base).get("__dict__")
        if type(descriptor) is GetSetDescriptorType:
            try:
                found = descriptor.__get__(obj)
            except (AttributeError, TypeError):
                return None
            return found if type(found) is dict else None
    return None


def slot_of(outer: object, inner: object) -> str | None:
    """The slot (or the member of a type written in C) in which `outer` has `inner`."""
    for base in _mro_of(type(outer)):
        for name, descriptor in list(_dict_of(base).items()):
            if type(descriptor) is not MemberDescriptorType or type(name) is not str:
                continue
            try:
                if descriptor.__get__(outer) is inner:
                    return shown(name)
            except (AttributeError, TypeError):
                continue
    return None


def key_of(namespace: object, value: object) -> str | None:
    """The name under which a namespace has `value`. Looks at every entry: a look-up could ask a foreign key."""
    for key, found in items_of(namespace):
        if found is value and type(key) is str:
            return shown(key)
    return None


def items_of(mapping: object) -> list[tuple[object, object]]:
    """The entries of a dict or a subclass, past its own methods, in one go: another thread may change it."""
    return list(dict.items(cast("dict[object, object]", mapping)))


def string_at(namespace: dict[Any, object], name: str) -> str | None:
    """The string under a name, compared with no key of another type."""
    for key, value in items_of(namespace):
        if type(key) is str and key == name:
            return value if type(value) is str else None
    return None


def index_of(outer: object, inner: object) -> int | None:
    """Where a list, tuple, deque or a subclass of one has `inner`."""
    cls: Any = next(kind for kind in (list, tuple, deque) if issubclass(type(outer), kind))
    items = cls.__iter__(outer)
    try:
        return next((at for at, item in enumerate(items) if item is inner), None)
    except RuntimeError:  # a deque that changed meanwhile
        return None


def free_name(function: Any, cell: object) -> str:
    """The name of a closure's cell."""
    closure = function.__closure__ or ()
    return next((name for name, own in zip(function.__code__.co_freevars, closure, strict=False) if own is cell), "?")
