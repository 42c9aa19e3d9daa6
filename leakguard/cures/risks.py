"""What can go wrong between an acquire and its release: the statements that pass the release by."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from leakguard.cures.source import Source
from leakguard.cures.trees import can_raise, encloses, line_of, own_statements, suppresses


def first_risk(source: Source, acquired: ast.stmt, released: ast.AST) -> ast.stmt | None:
    """The first statement between the two, in the same block or around the release, that can leave it."""
    scope = source.scope(acquired)
    for node in sorted(own_statements(scope), key=line_of):
        if not (acquired.end_lineno or acquired.lineno) < node.lineno < line_of(released):
            continue
        if isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass, ast.Import, ast.ImportFrom)
        ):
            continue
        if _in_other_branch(source, acquired, node) or _is_caught(source, node, released) or encloses(node, released):
            continue
        if isinstance(node, (ast.If, ast.Try, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith)):
            # Its own header may raise; the statements in it are looked at by themselves.
            parts: Iterable[ast.AST] = [
                part
                for part in ast.iter_child_nodes(node)
                if isinstance(part, (ast.expr, ast.withitem)) and not suppresses(part)
            ]
        else:
            parts = [node]
        if isinstance(node, (ast.Return, ast.Raise)) or any(can_raise(part) for part in parts):
            return node
    return None


def _in_other_branch(source: Source, acquired: ast.stmt, node: ast.stmt) -> bool:
    """Whether the acquisition stands in one branch of an `if` or `try`, and `node` in another."""
    inside = {id(one) for one in (acquired, *source.up(acquired))}
    below: ast.AST = node
    for parent in source.up(node):
        if id(parent) in inside:
            if not isinstance(parent, (ast.If, ast.Try)):
                return False
            mine = next(name for name, value in ast.iter_fields(parent) if isinstance(value, list) and below in value)
            around = next(one for one in (acquired, *source.up(acquired)) if source.parents.get(one) is parent)
            theirs = next(
                name for name, value in ast.iter_fields(parent) if isinstance(value, list) and around in value
            )
            return mine != theirs
        below = parent
    return False


def _is_caught(source: Source, node: ast.stmt, released: ast.AST) -> bool:
    """Whether an `except` may catch what `node` raises, so that the release behind it is reached after all."""
    inner: ast.AST = node
    for parent in source.up(node):
        if isinstance(parent, ast.Try) and parent.handlers and inner in parent.body and not encloses(parent, released):
            return not isinstance(node, ast.Return)
        if isinstance(parent, ast.Try) and inner in parent.handlers:
            return True
        if (
            isinstance(parent, (ast.With, ast.AsyncWith))
            and not encloses(parent, released)
            and any(suppresses(item) for item in parent.items)
        ):
            return True
        inner = parent
    return False


def finally_of(source: Source, node: ast.AST) -> ast.Try | None:
    """The `try` in whose `finally` the node stands."""
    return next((block for block, inner in _tries_around(source, node) if inner in block.finalbody), None)


def is_in_handler(source: Source, node: ast.AST) -> bool:
    """Whether the node stands in an `except` block."""
    return any(inner in block.handlers for block, inner in _tries_around(source, node))


def _tries_around(source: Source, node: ast.AST) -> Iterator[tuple[ast.Try, ast.AST]]:
    """The `try` statements around a node, inside out, and the part of each that it stands in."""
    inner = node
    for parent in source.up(node):
        if isinstance(parent, ast.Try):
            yield parent, inner
        inner = parent
