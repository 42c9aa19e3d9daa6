"""What an object is, and whose: its class, the code that it runs, and the library that they belong to."""

from __future__ import annotations

import os
import sys
from collections import deque
from types import (
    AsyncGeneratorType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final

from leakguard.references.values import shown, string_at, vars_of_module
from leakguard.register.stacks import FrameRules, Place

_LIBRARIES: Final = frozenset({"aiosqlite", "asyncpg", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "sqlite3"})
_SUSPENDABLE: Final[tuple[tuple[object, str, str], ...]] = (
    (CoroutineType, "coroutine", "cr"),
    (GeneratorType, "generator", "gi"),
    (AsyncGeneratorType, "async generator", "ag"),
)
PLAIN: Final[tuple[object, ...]] = (dict, list, tuple, set, frozenset, deque, CellType, MethodType)
# The package, not this folder of it: compared with what code objects say.
_OWN: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep  # noqa: PTH120
_OWN_DEMO: Final = os.path.join(_OWN, "demo") + os.sep  # noqa: PTH118
# Descriptors taken from `type` itself: a metaclass may override every one of these names, but not these.
_type_vars: Final[Any] = type.__dict__
name_of: Final = _type_vars["__name__"].__get__
_module_of: Final = _type_vars["__module__"].__get__


def type_name(cls: object) -> str:
    """The name of a class, whatever its metaclass says."""
    return shown(name_of(cls))


def library_of(cls: type) -> str | None:
    """The database library whose class this is."""
    module = _module_name(cls)
    package = module.partition(".")[0] if module is not None else ""
    return package if package in _LIBRARIES else None


def _module_name(cls: type) -> str | None:
    module = _module_of(cls)
    return module if type(module) is str else None


def is_pool(cls: type) -> bool:
    """Whether this is a database library's pool, by its name."""
    return library_of(cls) is not None and type_name(cls).endswith("Pool")


def place_of_class(cls: object, rules: FrameRules) -> Place:
    """Whose class it is, by the file of its module."""
    module = _module_name(cls)  # type: ignore[arg-type]
    if module is None or module == "builtins" or library_of(cls) is not None:  # type: ignore[arg-type]
        return Place.LIBRARY
    if module.partition(".")[0] in sys.stdlib_module_names:
        return Place.LIBRARY
    found = sys.modules.get(module)
    if found is None or not issubclass(type(found), ModuleType):
        return Place.APPLICATION if module == "__main__" else Place.LIBRARY
    file = string_at(vars_of_module(found), "__file__")
    if file is None:
        return Place.APPLICATION if module == "__main__" else Place.LIBRARY
    return rules.place(file)


def is_own_class(cls: type) -> bool:
    """Whether leakguard defines it."""
    module = _module_name(cls)
    return module is not None and is_own_module(module)


def is_own_module(name: str) -> bool:
    """Whether this is one of leakguard's modules; those of the demo count as an application's."""
    return f"{name}.".startswith("leakguard.") and not f"{name}.".startswith("leakguard.demo.")


def is_own_code(code: CodeType) -> bool:
    """The same for code."""
    return code.co_filename.startswith(_OWN) and not code.co_filename.startswith(_OWN_DEMO)


def is_library_file(file: str) -> bool:
    """Whether it belongs to a database library, wherever that is installed."""
    return any(f"{os.sep}{library}{os.sep}" in file for library in _LIBRARIES)


def code_of(obj: object, cls: type) -> CodeType | None:
    """The code that a frame, generator or function runs. The types are exact, so nobody overrides the attributes."""
    known: Any = obj
    if cls is FrameType:
        return known.f_code  # type: ignore[no-any-return]
    if cls is FunctionType:
        return known.__code__  # type: ignore[no-any-return]
    suspendable = suspendable_as(cls)
    return getattr(known, f"{suspendable[1]}_code") if suspendable is not None else None


def suspendable_as(cls: type) -> tuple[str, str] | None:
    """What a suspended thing of exactly this type is called, and the prefix of its attributes."""
    return next(((noun, prefix) for kind, noun, prefix in _SUSPENDABLE if cls is kind), None)


def is_one(cls: type, kinds: tuple[object, ...]) -> bool:
    """Like ``cls in kinds``, which could call the ``__eq__`` of a foreign metaclass."""
    return any(cls is kind for kind in kinds)
