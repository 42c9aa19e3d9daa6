"""Connections: which shape the code around an acquire has, and what is wrong with that shape."""

from __future__ import annotations

import ast
from typing import Final

from leakguard.cures.forms import caller_form, form_of
from leakguard.cures.model import Cure, CureKind, function_words, quoted, short, written
from leakguard.cures.risks import finally_of, first_risk, is_in_handler
from leakguard.cures.source import Source
from leakguard.cures.trees import Scope, encloses, line_of
from leakguard.cures.uses import Reader, Uses

_POOLED: Final = frozenset({"psycopg_pool", "psycopg2_pool"})
"""The pools whose checkouts must not be closed."""


class Connections:
    """Looks at connections of one library that are acquired in one file."""

    def __init__(self, source: Source, library: str) -> None:
        self._source = source
        self._library = library

    def advice(self, call: ast.Call) -> Cure | None:
        """What is wrong with this call, if that is certain."""
        source = self._source
        value: ast.expr = call
        parent = source.parents[call]
        awaited = isinstance(parent, ast.Await)
        if isinstance(parent, ast.Await):
            value, parent = parent, source.parents[parent]
        scope = source.scope(call)
        if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Module)):
            return None
        match parent:
            case ast.withitem():
                return self._in_with(call, parent, awaited=awaited)
            case ast.Attribute():
                return self._one_liner(call, value, awaited=awaited)
            case ast.Expr():
                return self._cure(
                    "without_with",
                    f"Nobody keeps what {quoted(self._code(call))} returns, so nobody can give it back.",
                    parent,
                    self._form(call, "conn", awaited=awaited),
                )
            case ast.Return():
                return self._dropped_by_caller(call, scope, awaited=awaited)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                return self._assigned(call, parent, name, scope, awaited=awaited)
        return None

    def _in_with(self, call: ast.Call, item: ast.withitem, *, awaited: bool) -> Cure | None:
        statement = self._source.parents[item]
        assert isinstance(statement, (ast.With, ast.AsyncWith))
        name = item.optional_vars.id if isinstance(item.optional_vars, ast.Name) else "conn"
        if len(statement.items) != 1:
            return None
        if self._library in _POOLED:
            start = "async with await" if awaited else "with"
            sentence = (
                f"{quoted(f'{start} {self._code(call)}')} ends the transaction, "
                "but does not return the connection to its pool."
            )
            return self._cure("with_getconn", sentence, statement, self._form(call, name, awaited=awaited))
        if self._library in ("psycopg2", "sqlite3"):
            sentence = (
                f"{quoted(f'with {self._library}.connect(...)')} ends the transaction, "
                "but does not close the connection: close it, "
                f"and put {quoted(f'with {name}:')} inside for the transaction."
            )
            return self._cure("with_only_commits", sentence, statement, self._form(call, name, awaited=awaited))
        return None

    def _one_liner(self, call: ast.Call, value: ast.expr, *, awaited: bool) -> Cure | None:
        """``engine.connect().execute(...)``: the connection is used, and nobody has it any more."""
        statement = self._source.statement(call)
        if not isinstance(statement, (ast.Expr, ast.Assign, ast.AnnAssign, ast.Return)):
            return None
        method = self._source.parents[value]
        if isinstance(method, ast.Attribute) and method.attr in ("__enter__", "__aenter__", "execution_options"):
            return None  # entered by hand, or the same connection once more
        whole, part = self._source.header(statement), self._code(value)
        if isinstance(self._source.parents.get(value), ast.Attribute) and awaited:
            part = f"({part})"
        if whole.count(part) != 1:
            return None
        chained = method.attr if isinstance(method, ast.Attribute) else ""
        if chained == "close" or (
            chained == "cursor" and isinstance(statement, (ast.Assign, ast.AnnAssign, ast.Return))
        ):
            if chained == "close":
                return None
            sentence = "Only the cursor is kept: nobody can give its connection back."
        else:
            got = quoted(self._code(call))
            sentence = f"The connection that {got} returns is used here and dropped: nobody can give it back."
        form = self._form(call, "conn", awaited=awaited)
        inner = whole.replace(part, "conn")
        after = form.replace("    ...", f"    {inner}", 1) if "    ..." in form else f"{form}\n    {inner}"
        return self._cure("one_liner", sentence, statement, after)

    def _assigned(self, call: ast.Call, statement: ast.stmt, name: str, scope: Scope, *, awaited: bool) -> Cure | None:
        uses = Reader(self._source, self._library).uses(name, scope, after=call)
        if uses is None or uses.escapes:
            return None
        form = self._form(call, name, awaited=awaited)
        shown = quoted(name)
        if uses.yields:
            return self._generator(call, statement, name, scope, uses, form)
        if uses.returned:
            return self._dropped_by_caller(call, scope, awaited=awaited) if not uses.releases else None
        if uses.detaches and not uses.closes and not uses.blocks:
            sentence = (
                f"{quoted(f'{name}.detach()')} in line {uses.detaches[0].lineno} "
                "takes the connection out of its pool: from there on only `close()` ends it, and nothing calls that."
            )
            return self._cure("detached", sentence, statement, form)
        if not uses.releases:
            sentence = f"{shown} is taken without `with`, and nothing in {function_words(scope)} gives it back."
            return self._cure("without_with", sentence, statement, form)
        if self._library in _POOLED and uses.closes and not uses.returns_to_pool:
            if any("close_returns" in line for line in self._source.lines):
                return None
            sentence = (
                f"{quoted(f'{name}.close()')} in line {uses.closes[0].lineno} closes the pooled connection "
                "instead of returning it: the pool waits for it in vain."
            )
            return self._cure("closed_not_returned", sentence, statement, form)
        return self._success_only(statement, uses, form, name)

    def _success_only(self, statement: ast.stmt, uses: Uses, form: str, name: str) -> Cure | None:
        """A release that an exception, or an early return, passes by."""
        releases = sorted(uses.releases, key=line_of)
        if any(is_in_handler(self._source, release) for release in releases):
            return None
        protected = next(
            (found for release in releases if (found := finally_of(self._source, release)) is not None), None
        )
        if protected is not None and encloses(protected, statement):
            return None
        first: ast.AST = protected if protected is not None else releases[0]
        if any(isinstance(one, ast.stmt) and one in uses.blocks for one in releases):
            first = min([first, *uses.blocks], key=line_of)
        risk = first_risk(self._source, statement, first)
        if risk is None:
            return None
        where = f"line {risk.lineno}, {quoted(short(self._source.header(risk)))},"
        what = "leaves before that" if isinstance(risk, (ast.Return, ast.Raise)) else "can raise before that"
        if protected is not None:
            begins = f"begins in line {line_of(first)} only"
            sentence = f"The `try` whose `finally` gives {quoted(name)} back {begins}: {where} {what}."
        else:
            sentence = f"{quoted(name)} is given back in line {line_of(first)}, on success only: {where} {what}."
        return self._cure("success_only", sentence, statement, form)

    def _generator(
        self, call: ast.Call, statement: ast.stmt, name: str, scope: Scope, uses: Uses, form: str
    ) -> Cure | None:
        if len(uses.yields) != 1 or any(is_in_handler(self._source, release) for release in uses.releases):
            return None
        waiting = uses.yields[0]
        for release in uses.releases:
            block = finally_of(self._source, release)
            if (block is not None and encloses(block, waiting)) or encloses(release, waiting):
                return None
        if any(line_of(release) < waiting.lineno for release in uses.releases):
            return None
        if uses.releases:
            sentence = (
                f"{function_words(scope)} gives {quoted(name)} back in line {min(map(line_of, uses.releases))} "
                f"only if nothing is raised at its `yield` in line {waiting.lineno}: "
                "an error of whoever uses it arrives there."
            )
        else:
            sentence = (
                f"{function_words(scope)} never gives {quoted(name)} back after its `yield` in line {waiting.lineno}."
            )
        after = form.replace("    ...", f"    yield {name}", 1) if "    ..." in form else f"{form}\n    yield {name}"
        return self._cure("generator", sentence, statement, after)

    def _dropped_by_caller(self, call: ast.Call, scope: Scope, *, awaited: bool) -> Cure | None:
        """The function returns the connection, and a caller in this file uses it and lets it fall."""
        if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) or scope not in self._source.tree.body:
            return None
        if (
            scope.decorator_list
            or sum(1 for one in self._source.tree.body if getattr(one, "name", "") == scope.name) != 1
        ):
            return None
        is_async = isinstance(scope, ast.AsyncFunctionDef)
        for node in ast.walk(self._source.tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != scope.name:
                continue
            value: ast.expr = node
            parent = self._source.parents[node]
            if is_async:
                if not isinstance(parent, ast.Await):
                    continue
                value, parent = parent, self._source.parents[parent]
            statement = self._source.statement(node)
            if not isinstance(statement, (ast.Expr, ast.Assign, ast.Return)) or not isinstance(
                parent, (ast.Attribute, ast.Expr)
            ):
                continue
            if isinstance(parent, ast.Attribute) and parent.attr in ("close", "__enter__", "__aenter__"):
                continue
            form = caller_form(self._source, self._library, call, node, awaited=awaited)
            if form is None:
                return None
            whole, part = self._source.header(statement), self._code(value)
            part = f"({part})" if is_async and isinstance(parent, ast.Attribute) else part
            if whole.count(part) != 1:
                return None
            inner = whole.replace(part, "conn") if isinstance(parent, ast.Attribute) else "..."
            sentence = (
                f"{function_words(scope)} returns the connection, and line {node.lineno} in "
                f"{function_words(self._source.scope(node))} lets it fall: nobody gives it back."
            )
            after = form.replace("    ...", f"    {inner}", 1) if "    ..." in form else f"{form}\n    {inner}"
            return self._cure("returned_and_dropped", sentence, statement, after)
        return None

    def _code(self, node: ast.expr) -> str:
        return self._source.code(node)

    def _form(self, call: ast.Call, name: str, *, awaited: bool) -> str:
        return form_of(self._source, self._library, call, name, awaited=awaited)

    def _cure(self, kind: CureKind, sentence: str, statement: ast.stmt, after: str) -> Cure:
        return written(self._source, kind, sentence, statement, after)
