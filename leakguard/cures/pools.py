"""Engines and pools that are made anew with each call of a function."""

from __future__ import annotations

import ast

from leakguard.cures.model import Cure, function_words, written
from leakguard.cures.source import Source
from leakguard.cures.trees import SESSIONS, Function, called_name, local_names


def for_pool(source: Source, library: str, call: ast.Call) -> Cure | None:
    """An engine or pool that is made anew with each call of a function."""
    scope = source.scope(call)
    if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) or scope.decorator_list:
        return None
    value: ast.expr = call
    parent = source.parents[value]
    match parent:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            pass
        case _:
            return None
    if any(isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names for node in ast.walk(scope)):
        return None
    if not _stays(source, name, scope):
        return None
    what = "engine" if library == "sqlalchemy" else "pool"
    own = local_names(scope)
    made = f"{function_words(scope)} makes a new {what}, with connections of its own, each time it is called"
    sentence = f"{made}, and never closes it"
    line = source.header(parent)
    if any(isinstance(node, ast.Name) and node.id in own for node in ast.walk(call)):
        if library == "sqlalchemy":
            asynchronous = called_name(call) == "create_async_engine"
            end = f"{'await ' if asynchronous else ''}{name}.dispose()"
            after = f"{line}\ntry:\n    ...\nfinally:\n    {end}"
        else:
            after = f"{'async ' if 'Async' in (called_name(call) or '') else ''}with {source.code(call)} as {name}:"
        return written(source, "pool_in_function", f"{sentence}.", parent, after)
    return written(
        source,
        "pool_in_function",
        f"{sentence}: make one for the whole process.",
        parent,
        f"{line}  # at module level, once",
    )


def _stays(source: Source, name: str, scope: Function) -> bool:
    """Whether the engine never leaves the function, and nothing there closes it."""
    for node in ast.walk(scope):
        if not isinstance(node, ast.Name) or node.id != name or not isinstance(node.ctx, ast.Load):
            continue
        parent = source.parents[node]
        if source.scope(node) is not scope:
            return False
        match parent:
            case ast.Attribute(attr="dispose" | "close"):
                return False
            case ast.Attribute():
                called = source.parents[parent]
                if isinstance(source.parents.get(called), (ast.Return, ast.Yield)):
                    return False
            case ast.Call():
                if called_name(parent) not in SESSIONS | {"create_all", "drop_all", "inspect"}:
                    return False
            case _:
                return False
    return True
