"""A source file, parsed: its lines, its tree, and what stands around each node."""

from __future__ import annotations

import ast
import functools
import tokenize
from collections.abc import Iterator
from typing import Final

_FILE_LIMIT: Final = 2_000_000
"""The largest source file that is parsed, in bytes."""


class Source:
    """A parsed file: its lines, its tree, and the parent of each node."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.tree = ast.parse(text)
        self.parents: dict[ast.AST, ast.AST] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.parents[child] = node
        self._text = text

    def line(self, number: int) -> str:
        """A line of the file; nothing where it has no such line."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    def up(self, node: ast.AST) -> Iterator[ast.AST]:
        """The nodes around this one, inside out."""
        while (parent := self.parents.get(node)) is not None:
            yield parent
            node = parent

    def statement(self, node: ast.AST) -> ast.stmt:
        """The statement that the node is part of."""
        return next(one for one in (node, *self.up(node)) if isinstance(one, ast.stmt))

    def scope(self, node: ast.AST) -> ast.AST:
        """The function, lambda, class or module whose code the node is."""
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.Module)
        return next(one for one in self.up(node) if isinstance(one, kinds))

    def code(self, node: ast.expr) -> str:
        """The source of an expression, on one line."""
        segment = ast.get_source_segment(self._text, node)
        return segment if segment is not None and "\n" not in segment else ast.unparse(node)

    def header(self, statement: ast.stmt) -> str:
        """A statement, of a compound one just what stands before its block: on one line, without a comment."""
        if getattr(statement, "body", None):
            line = self.lines[statement.lineno - 1].strip()
            return line if line.endswith(":") and "#" not in line else ast.unparse(statement).partition("\n")[0]
        segment = ast.get_source_segment(self._text, statement)
        return segment if segment is not None and "\n" not in segment else ast.unparse(statement)


@functools.lru_cache(maxsize=8)
def parsed(file: str, _changed: int, size: int) -> Source | None:
    """The file as it is in this state of it; None where it is too large or no Python."""
    if size > _FILE_LIMIT:
        return None
    try:
        with tokenize.open(file) as stream:
            return Source(stream.read())
    except (SyntaxError, UnicodeDecodeError, MemoryError):
        return None
