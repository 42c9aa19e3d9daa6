"""The call that a report means: found in its line, in the function of that name."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import Final

from leakguard.cures.source import Source
from leakguard.cures.trees import SESSIONS, called_name, receiver

_SESSION_MAKERS: Final = frozenset({"sessionmaker", "async_sessionmaker"})


class Place:
    """A line of a function, in which a report says that something was called."""

    def __init__(self, source: Source, line: int, function_name: str, operation: str) -> None:
        self._source = source
        self._line = line
        self._function_name = function_name
        self._operation = operation.rpartition(".")[2]

    def call(self, names: Iterable[str]) -> ast.Call | None:
        """The one call of such a name in the line, in the right function; None if there are none or several."""
        found = [call for call in self._calls() if (called_name(call) or "") in names]
        if len(found) > 1:
            found = [call for call in found if called_name(call) == self._operation]
        return found[0] if len(found) == 1 else None

    def _calls(self) -> Iterator[ast.Call]:
        for node in ast.walk(self._source.tree):
            if isinstance(node, ast.Call) and node.lineno <= self._line <= (node.end_lineno or node.lineno):
                scope = self._source.scope(node)
                name = scope.name if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) else None
                if name == self._function_name or (self._function_name == "<module>" and isinstance(scope, ast.Module)):
                    yield node

    def session(self) -> ast.Call | None:
        """The call that made the session which this line uses: that is where the `with` belongs."""
        names = {root.id for call in self._calls() if (root := receiver(call)) is not None}
        makers = {
            target.id
            for node in self._source.tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and called_name(node.value) in _SESSION_MAKERS
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        found: list[ast.Call] = []
        for node in ast.walk(self._source.tree):
            if not isinstance(node, ast.Assign) or node.lineno > self._line or not isinstance(node.value, ast.Call):
                continue
            scope = self._source.scope(node)
            if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) or scope.name != self._function_name:
                continue
            if not scope.lineno <= self._line <= (scope.end_lineno or scope.lineno):
                continue
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id in names and called_name(node.value) in SESSIONS | makers:
                found.append(node.value)
        return found[0] if len(found) == 1 else None
