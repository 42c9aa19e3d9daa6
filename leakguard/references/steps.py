"""A chain of objects, put into words."""

from __future__ import annotations

import os
import sys
from collections import deque
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any, Final, cast

from leakguard.references.kinds import PLAIN, code_of, is_library_file, is_one, library_of, suspendable_as, type_name
from leakguard.references.path import Step
from leakguard.references.values import free_name, index_of, items_of, key_of, local_name, namespace_of, shown, slot_of

_traceback_of: Final = cast("Any", vars(BaseException))["__traceback__"].__get__


def describe(chain: list[object]) -> list[Step]:
    """The steps of a chain, from the object outwards; what belongs together is folded into one."""
    steps: list[Step] = []
    at = 0
    folded = _library_prefix(chain)
    if folded:
        steps.append(_library_step(type(chain[folded])))
        at = folded
    while at < len(chain) - 1:
        step, used = _link(chain, at)
        steps.append(step)
        at += used
    return steps


def _library_prefix(chain: list[object]) -> int:
    """How far from the object the chain runs through nothing but a database library's own objects."""
    found = 0
    for at in range(1, len(chain)):
        cls = type(chain[at])
        code = code_of(chain[at], cls)
        if code is None and library_of(cls) is not None:
            found = at
        elif not is_one(cls, PLAIN) and (code is None or not is_library_file(code.co_filename)):
            break
    return found


def _library_step(cls: type) -> Step:
    name = type_name(cls)
    return Step(words=f"the {name} of {library_of(cls)}", kind="library", name=name)


def _link(chain: list[object], at: int) -> tuple[Step, int]:
    """The step from `chain[at]` to what refers to it, and how many links it takes."""
    inner, outer = chain[at], chain[at + 1]
    name: str | None
    above = chain[at + 2] if at + 2 < len(chain) else None
    cls = type(outer)
    if (suspendable := suspendable_as(cls)) is not None:
        return _suspended_step(inner, outer, *suspendable), 1
    if cls is FrameType:
        return _frame_step(inner, outer), 1
    if cls is TracebackType:
        used = 1
        while at + used + 1 < len(chain) and type(chain[at + used + 1]) is TracebackType:
            used += 1
        error = chain[at + used + 1] if at + used + 1 < len(chain) else None
        if error is not None and issubclass(type(error), BaseException):
            return _error_step(error), used + 1
        return Step(words="a traceback", kind="traceback"), used
    if issubclass(cls, BaseException):
        return _attribute_step(inner, outer), 1
    if cls is CellType:
        if type(above) is tuple and at + 3 < len(chain) and type(chain[at + 3]) is FunctionType:
            function: Any = chain[at + 3]
            name = free_name(function, outer)
            return Step(
                words=f"closure cell `{name}` of {shown(function.__code__.co_qualname)}()", kind="closure", name=name
            ), 3
        return Step(words="a closure cell", kind="closure"), 1
    if cls is tuple and type(above) is FunctionType:
        named: Any = above
        return Step(words=f"a default argument of {shown(named.__code__.co_qualname)}()", kind="closure"), 2
    if cls is FunctionType:
        plain: Any = outer
        return Step(words=f"function {shown(plain.__code__.co_qualname)}()", kind="closure"), 1
    if cls is MethodType or cls is BuiltinMethodType:
        method: Any = outer
        called = "a bound method"
        if cls is BuiltinMethodType:
            called = f"the bound method {shown(method.__name__)}()"
        elif type(method.__func__) is FunctionType:
            called = f"the bound method {shown(method.__func__.__code__.co_name)}()"
        return Step(words=called, kind="attribute"), 1
    if cls is dict and above is not None and namespace_of(above) is outer:
        name = key_of(outer, inner)
        return _attribute(name, above), 2
    if issubclass(cls, dict):
        return Step(words=f"{_key_words(outer, inner)} of {with_article(cls)}", kind="item"), 1
    if issubclass(cls, (list, tuple, deque)):
        index = index_of(outer, inner)
        words = f"item {index} of {with_article(cls)}" if index is not None else with_article(cls)
        return Step(words=words, kind="item"), 1
    if issubclass(cls, (set, frozenset)):
        return Step(words=f"member of {with_article(cls)}", kind="item"), 1
    if issubclass(cls, type):
        return Step(words=f"class {type_name(outer)}", kind="class"), 1
    if cls is ModuleType:
        return Step(words="a module", kind="global"), 1
    return _attribute_step(inner, outer), 1


def _suspended_step(inner: object, outer: object, noun: str, prefix: str) -> Step:
    suspended: Any = outer
    code: CodeType = getattr(suspended, f"{prefix}_code")  # of a type that cannot be subclassed
    frame: FrameType | None = getattr(suspended, f"{prefix}_frame")
    name, line = None, code.co_firstlineno
    if frame is not None:
        line = frame.f_lineno or line
        name = local_name(frame, inner)
    verb = "awaited in" if type(inner) in (CoroutineType, AsyncGeneratorType) else "in use in"
    what = f"local `{name}` of" if name is not None else verb
    words = f"{what} suspended {noun} {shown(code.co_name)}() at {shown_path(code.co_filename)}:{line}"
    return Step(words=words, kind="local", name=name, file=code.co_filename, line=line)


def _frame_step(inner: object, outer: object) -> Step:
    frame: Any = outer
    code: CodeType = frame.f_code
    if type(inner) is FrameType:
        return Step(words="a frame that it was called from", kind="other")
    name, line = local_name(frame, inner), frame.f_lineno or code.co_firstlineno
    what = f"local `{name}` of" if name is not None else "in use in"
    words = f"{what} the ended frame {shown(code.co_name)}() at {shown_path(code.co_filename)}:{line}"
    return Step(words=words, kind="local", name=name, file=code.co_filename, line=line)


def _error_step(error: object) -> Step:
    """``traceback of a stored ValueError (raised at y.py:7)``: its innermost frame is where it was raised."""
    name = type_name(type(error))
    traceback: TracebackType | None = _traceback_of(error)
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return Step(words=f"traceback of a stored {name}", kind="traceback", name=name)
    file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
    words = f"traceback of a stored {name} (raised at {shown_path(file)}:{line})"
    return Step(words=words, kind="traceback", name=name, file=file, line=line)


def _attribute_step(inner: object, outer: object) -> Step:
    """An instance without a namespace of its own in the chain: slots, or values that are stored in line."""
    namespace = namespace_of(outer)
    name = key_of(namespace, inner) if namespace is not None else None
    if name is None:
        name = slot_of(outer, inner)
    return _attribute(name, outer)


def _attribute(name: str | None, outer: object) -> Step:
    words = f"attribute `{name}` of {with_article(type(outer))}" if name is not None else with_article(type(outer))
    return Step(words=words, kind="attribute", name=name)


def _key_words(outer: object, inner: object) -> str:
    for key, value in items_of(outer):
        if value is inner:
            return f"key '{key}'" if type(key) is str and _is_harmless(key) else f"a {type_name(type(key))} key"
        if key is inner:
            return "a key"
    return "an entry"


def _is_harmless(key: str) -> bool:
    """A key that reads like a name in a program. Others may be values: an address, a token, a customer's number."""
    letters = key.rstrip("0123456789")
    return len(key) <= 40 and len(key) - len(letters) <= 3 and key.isidentifier() and not any(map(str.isdigit, letters))


def task_words(task: object) -> str:
    """A task, by its name if it is one of asyncio's own."""
    module = sys.modules.get("_asyncio")
    kind = vars(module).get("Task") if module is not None else None
    if type(kind) is type and issubclass(type(task), kind):
        name = kind.get_name(task)  # type: ignore[attr-defined]
        if type(name) is str:
            return f"task {shown(name)}"
    return "a task"


def with_article(cls: type) -> str:
    """``a Shop``, ``an Order``."""
    name = type_name(cls)
    return f"an {name}" if name[:1].lower() in "aeiou" and name[:1] else f"a {name}"


def shown_path(file: str) -> str:
    """A file as it may be printed, below the working directory without that."""
    try:
        root = os.getcwd()  # noqa: PTH109
    except OSError:
        return shown(file)
    return shown(file.removeprefix(root + os.sep) if root != os.sep else file)
