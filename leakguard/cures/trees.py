"""Small questions about a syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, TypeAlias

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Scope: TypeAlias = "Function | ast.Module"

SESSIONS: Final = frozenset({"Session", "AsyncSession"})


def line_of(node: ast.AST) -> int:
    """Where a node begins."""
    return int(getattr(node, "lineno", 0))


def called_name(call: ast.Call) -> str | None:
    """The name of the function or method that is called, without what stands before it."""
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return None


def receiver(call: ast.Call) -> ast.Name | None:
    """The variable at the beginning of a chain of calls: `session` of ``session.scalars(...).all()``."""
    node: ast.expr = call
    while True:
        match node:
            case ast.Call(func=inner) | ast.Attribute(value=inner):
                node = inner
            case ast.Name():
                return node
            case _:
                return None


def suppresses(node: ast.AST) -> bool:
    """Whether this is the ``suppress(...)`` of a ``with`` statement."""
    return (
        isinstance(node, ast.withitem)
        and isinstance(node.context_expr, ast.Call)
        and called_name(node.context_expr) == "suppress"
    )


def is_global(call: ast.Call, tree: ast.Module) -> bool:
    """Whether the object whose method is called is a variable of the module."""
    if not isinstance(call.func, ast.Attribute) or not isinstance(call.func.value, ast.Name):
        return False
    name = call.func.value.id
    return any(
        isinstance(node, ast.Name) and node.id == name
        for one in tree.body
        if isinstance(one, (ast.Assign, ast.AnnAssign))
        for node in ast.walk(one)
    )


def encloses(outer: ast.AST, inner: ast.AST) -> bool:
    """Whether one node stands somewhere inside another."""
    return outer is not inner and any(node is inner for node in ast.walk(outer))


def own_statements(scope: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a function, without those of functions and classes in it."""
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def can_raise(node: ast.AST) -> bool:
    """Calls, subscripts, waiting and asserting can raise; what is left of Python does so in bugs only."""
    kinds = (ast.Call, ast.Await, ast.Subscript, ast.Assert, ast.For, ast.AsyncFor, ast.Yield, ast.YieldFrom)
    return any(isinstance(part, kinds) for part in ast.walk(node))


def local_names(function: Function) -> set[str]:
    """The parameters of a function, and the variables that it sets."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {argument.arg for argument in named if argument is not None} | stored
