"""What becomes of a variable after its acquisition."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Final

from leakguard.cures.source import Source
from leakguard.cures.trees import Scope, called_name

_WITH_CLOSES: Final = frozenset({"psycopg", "sqlalchemy"})
"""The libraries whose connections end with a ``with`` block of their own."""
_RELEASES: Final = frozenset({"putconn", "release"})
_HARMLESS: Final = frozenset({"bool", "id", "isinstance", "len", "print", "repr", "str", "type"})


@dataclass
class Uses:
    """What a function does with a variable after its acquisition."""

    closes: list[ast.Call] = field(default_factory=list)
    returns_to_pool: list[ast.Call] = field(default_factory=list)
    blocks: list[ast.stmt] = field(default_factory=list)  # `with conn:`
    detaches: list[ast.Call] = field(default_factory=list)
    yields: list[ast.expr] = field(default_factory=list)
    returned: list[ast.Return] = field(default_factory=list)
    escapes: bool = False

    @property
    def releases(self) -> list[ast.AST]:
        """Everything that gives it back."""
        return [*self.closes, *self.returns_to_pool, *self.blocks]


class Reader:
    """Reads what a function does with a variable that has a connection of this library."""

    def __init__(self, source: Source, library: str) -> None:
        self._source = source
        self._library = library

    def uses(self, name: str, scope: Scope, after: ast.Call) -> Uses | None:
        """What happens to the variable in its function; None where it is more than one thing in the course of it."""
        uses = Uses()
        statement = self._source.statement(after)
        for node in ast.walk(scope):
            if isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names:
                return None
            if not isinstance(node, ast.Name) or node.id != name:
                continue
            if self._source.scope(node) is not scope:
                uses.escapes = True  # a closure
                continue
            if isinstance(node.ctx, ast.Store):
                owner = self._source.parents[node]
                nothing = (
                    isinstance(owner, ast.Assign)
                    and isinstance(owner.value, ast.Constant)
                    and owner.value.value is None
                )
                if owner is not statement and not nothing:
                    return None
            elif isinstance(node.ctx, ast.Load) and node.lineno >= statement.lineno:
                self._use(node, uses)
        if isinstance(scope, ast.Module):
            uses.escapes = uses.escapes or not uses.releases  # a global may be meant to live as long as the program
        return uses

    def _use(self, node: ast.Name, uses: Uses) -> None:
        parent = self._source.parents[node]
        above = self._source.parents.get(parent)
        match parent:
            case ast.Attribute(attr=attribute):
                if isinstance(above, ast.Call) and above.func is parent:
                    if attribute in ("close", "terminate"):
                        uses.closes.append(above)
                    elif attribute == "detach":
                        uses.detaches.append(above)
                    elif attribute in ("__enter__", "__aenter__", "__exit__", "__aexit__", "aclose"):
                        uses.escapes = True
                elif attribute in ("close", "terminate", "__exit__"):
                    uses.escapes = True  # registered for later: atexit, addCleanup, ExitStack.callback
            case ast.Call() if parent.func is not node:
                self._argument(node, parent, parent.args.index(node), uses)
            case ast.keyword():
                uses.escapes = True
            case ast.withitem():
                block = above
                assert isinstance(block, (ast.With, ast.AsyncWith))
                if self._library in _WITH_CLOSES:
                    uses.blocks.append(block)
            case ast.Yield():
                uses.yields.append(parent)
            case ast.Return():
                uses.returned.append(parent)
            case (
                ast.Compare()
                | ast.UnaryOp()
                | ast.If()
                | ast.While()
                | ast.Expr()
                | ast.FormattedValue()
                | ast.Assert()
            ):
                pass
            case _:
                uses.escapes = True

    def _argument(self, node: ast.Name, call: ast.Call, position: int, uses: Uses) -> None:
        called = called_name(call)
        if called in _RELEASES:
            uses.returns_to_pool.append(call)
        elif isinstance(call.func, ast.Name) and (called in _HARMLESS or self._is_mere_use(call.func.id, position)):
            pass
        else:
            uses.escapes = True

    def _is_mere_use(self, function_name: str, position: int) -> bool:
        """Whether a function of this file only uses its argument: it neither gives it back nor keeps it."""
        found = [one for one in self._source.tree.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
        found = [one for one in found if one.name == function_name]
        if len(found) != 1 or found[0].decorator_list or position >= len(found[0].args.args):
            return False
        function = found[0]
        parameter = function.args.args[position].arg
        uses = Uses()
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id == parameter:
                if not isinstance(node.ctx, ast.Load) or self._source.scope(node) is not function:
                    return False
                above = self._source.parents[node]
                if isinstance(above, ast.Call) and node in above.args:
                    return False
                self._use(node, uses)
        return not (uses.escapes or uses.releases or uses.yields or uses.returned or uses.detaches)
