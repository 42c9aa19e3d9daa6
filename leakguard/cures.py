"""Advice from the source: what is wrong with the very line that acquired, and what to write there instead.

The file is parsed when a report is made, the acquiring call and its function are found in it, and only what follows
from the syntax tree is said. A connection that leaves the function (stored, passed on, captured) may be given back
elsewhere: then nothing is certain, and there is no advice. Nor is there any for a file that has changed meanwhile, as
far as that shows: the call must stand in that line, in a function of that name.
"""

from __future__ import annotations

import ast
import functools
import os
import stat
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from leakguard import redact

CureKind = Literal[
    "without_with",
    "one_liner",
    "success_only",
    "with_getconn",
    "with_only_commits",
    "closed_not_returned",
    "returned_and_dropped",
    "generator",
    "pool_in_function",
    "detached",
]

_FILE_LIMIT: Final = 2_000_000
"""The largest source file that is parsed, in bytes."""

_ACQUIRES: Final[dict[str, frozenset[str]]] = {
    "psycopg": frozenset({"connect"}),
    "psycopg2": frozenset({"connect"}),
    "sqlite3": frozenset({"connect"}),
    "asyncpg": frozenset({"connect"}),
    "psycopg_pool": frozenset({"getconn"}),
    "psycopg2_pool": frozenset({"getconn"}),
    "asyncpg_pool": frozenset({"acquire"}),
    "sqlalchemy": frozenset({"connect", "raw_connection"}),
}
_POOLS: Final[dict[str, frozenset[str]]] = {
    "sqlalchemy": frozenset({"create_engine", "create_async_engine"}),
    "psycopg_pool": frozenset(
        {"ConnectionPool", "NullConnectionPool", "AsyncConnectionPool", "AsyncNullConnectionPool"}
    ),
}
_POOLED: Final = frozenset({"psycopg_pool", "psycopg2_pool"})
"""The pools whose checkouts must not be closed."""
_WITH_CLOSES: Final = frozenset({"psycopg", "sqlalchemy"})
"""The libraries whose connections end with a ``with`` block of their own."""
_RELEASES: Final = frozenset({"putconn", "release"})
_HARMLESS: Final = frozenset({"bool", "id", "isinstance", "len", "print", "repr", "str", "type"})
_SESSIONS: Final = frozenset({"Session", "AsyncSession"})
_SESSION_MAKERS: Final = frozenset({"sessionmaker", "async_sessionmaker"})

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Scope: TypeAlias = "Function | ast.Module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cure:
    """What is wrong in one sentence, the line as it is, and what to write instead (perhaps several lines)."""

    kind: CureKind
    sentence: str
    before: str
    after: str


def cure(
    file: str, line: int, function_name: str, library: str, operation: str, *, code: str | None = None
) -> Cure | None:
    """Advice for what was acquired (or, for a pool, created) at this place; None where nothing is certain.

    `operation` is the name of what was called, where that is known; it settles which of two calls in a line is meant.
    `code` is the line as a report has it: where the file has another one by now, there is no advice. Reads the file;
    never raises for what it finds there. No password of the source is in the result. Thread-safe.
    """
    try:
        status = os.stat(file)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode):  # a report may come from anywhere, and a device has no end
            return None
        source = _parsed(file, status.st_mtime_ns, status.st_size)
        if source is None or (code is not None and redact.code_line(source.line(line)) != code):
            return None
        return _Advisor(source, line, function_name, library, operation).advice()
    except (OSError, ValueError, RecursionError):
        return None


# --------------------------------------------------------------------------------------------------------- source


class _Source:
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
def _parsed(file: str, _changed: int, size: int) -> _Source | None:
    if size > _FILE_LIMIT:
        return None
    try:
        with tokenize.open(file) as stream:
            return _Source(stream.read())
    except (SyntaxError, UnicodeDecodeError, MemoryError):
        return None


# --------------------------------------------------------------------------------------------------------- advice


@dataclass
class _Uses:
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
        return [*self.closes, *self.returns_to_pool, *self.blocks]


class _Advisor:
    def __init__(self, source: _Source, line: int, function_name: str, library: str, operation: str) -> None:
        self._source = source
        self._line = line
        self._function_name = function_name
        self._library = library
        self._operation = operation.rpartition(".")[2]

    def advice(self) -> Cure | None:
        call = self._call(_POOLS.get(self._library, frozenset()))
        if call is not None:
            return self._for_pool(call)
        call = self._call(_ACQUIRES.get(self._library, frozenset()))
        if call is None and self._library == "sqlalchemy":
            call = self._session()
        return self._for_connection(call) if call is not None else None

    # ---- finding the call

    def _call(self, names: Iterable[str]) -> ast.Call | None:
        """The one call of such a name in the line, in the right function; None if there are none or several."""
        found = [call for call in self._calls() if (_called(call) or "") in names]
        if len(found) > 1:
            found = [call for call in found if _called(call) == self._operation]
        return found[0] if len(found) == 1 else None

    def _calls(self) -> Iterator[ast.Call]:
        for node in ast.walk(self._source.tree):
            if isinstance(node, ast.Call) and node.lineno <= self._line <= (node.end_lineno or node.lineno):
                scope = self._source.scope(node)
                name = scope.name if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) else None
                if name == self._function_name or (self._function_name == "<module>" and isinstance(scope, ast.Module)):
                    yield node

    def _session(self) -> ast.Call | None:
        """The call that made the session which this line uses: that is where the `with` belongs."""
        names = {root.id for call in self._calls() if (root := _receiver(call)) is not None}
        makers = {
            target.id
            for node in self._source.tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and _called(node.value) in _SESSION_MAKERS
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
            if isinstance(target, ast.Name) and target.id in names and _called(node.value) in _SESSIONS | makers:
                found.append(node.value)
        return found[0] if len(found) == 1 else None

    # ---- connections

    def _for_connection(self, call: ast.Call) -> Cure | None:
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
                    f"Nobody keeps what {_quoted(self._code(call))} returns, so nobody can give it back.",
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
                f"{_quoted(f'{start} {self._code(call)}')} ends the transaction, "
                "but does not return the connection to its pool."
            )
            return self._cure("with_getconn", sentence, statement, self._form(call, name, awaited=awaited))
        if self._library in ("psycopg2", "sqlite3"):
            sentence = (
                f"{_quoted(f'with {self._library}.connect(...)')} ends the transaction, "
                "but does not close the connection: close it, "
                f"and put {_quoted(f'with {name}:')} inside for the transaction."
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
            got = _quoted(self._code(call))
            sentence = f"The connection that {got} returns is used here and dropped: nobody can give it back."
        form = self._form(call, "conn", awaited=awaited)
        inner = whole.replace(part, "conn")
        after = form.replace("    ...", f"    {inner}", 1) if "    ..." in form else f"{form}\n    {inner}"
        return self._cure("one_liner", sentence, statement, after)

    def _assigned(self, call: ast.Call, statement: ast.stmt, name: str, scope: Scope, *, awaited: bool) -> Cure | None:
        uses = self._uses(name, scope, after=call)
        if uses is None or uses.escapes:
            return None
        form = self._form(call, name, awaited=awaited)
        shown = _quoted(name)
        if uses.yields:
            return self._generator(call, statement, name, scope, uses, form)
        if uses.returned:
            return self._dropped_by_caller(call, scope, awaited=awaited) if not uses.releases else None
        if uses.detaches and not uses.closes and not uses.blocks:
            sentence = (
                f"{_quoted(f'{name}.detach()')} in line {uses.detaches[0].lineno} "
                "takes the connection out of its pool: from there on only `close()` ends it, and nothing calls that."
            )
            return self._cure("detached", sentence, statement, form)
        if not uses.releases:
            sentence = f"{shown} is taken without `with`, and nothing in {_function(scope)} gives it back."
            return self._cure("without_with", sentence, statement, form)
        if self._library in _POOLED and uses.closes and not uses.returns_to_pool:
            if self._mentions("close_returns"):
                return None
            sentence = (
                f"{_quoted(f'{name}.close()')} in line {uses.closes[0].lineno} closes the pooled connection "
                "instead of returning it: the pool waits for it in vain."
            )
            return self._cure("closed_not_returned", sentence, statement, form)
        return self._success_only(statement, uses, form, name)

    def _success_only(self, statement: ast.stmt, uses: _Uses, form: str, name: str) -> Cure | None:
        """A release that an exception, or an early return, passes by."""
        releases = sorted(uses.releases, key=_line)
        if any(self._is_in(release, "handlers") for release in releases):
            return None
        protected = next((found for release in releases if (found := self._finally_of(release)) is not None), None)
        if protected is not None and _encloses(protected, statement):
            return None
        first: ast.AST = protected if protected is not None else releases[0]
        if any(isinstance(one, ast.stmt) and one in uses.blocks for one in releases):
            first = min([first, *uses.blocks], key=_line)
        risk = self._first_risk(statement, first)
        if risk is None:
            return None
        where = f"line {risk.lineno}, {_quoted(_short(self._source.header(risk)))},"
        what = "leaves before that" if isinstance(risk, (ast.Return, ast.Raise)) else "can raise before that"
        if protected is not None:
            begins = f"begins in line {_line(first)} only"
            sentence = f"The `try` whose `finally` gives {_quoted(name)} back {begins}: {where} {what}."
        else:
            sentence = f"{_quoted(name)} is given back in line {_line(first)}, on success only: {where} {what}."
        return self._cure("success_only", sentence, statement, form)

    def _first_risk(self, acquired: ast.stmt, released: ast.AST) -> ast.stmt | None:
        """The first statement between the two, in the same block or around the release, that can leave it."""
        scope = self._source.scope(acquired)
        for node in sorted(_own_statements(scope), key=_line):
            if not (acquired.end_lineno or acquired.lineno) < node.lineno < _line(released):
                continue
            if isinstance(
                node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Pass, ast.Import, ast.ImportFrom)
            ):
                continue
            if self._in_other_branch(acquired, node) or self._is_caught(node, released) or _encloses(node, released):
                continue
            if isinstance(node, (ast.If, ast.Try, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith)):
                # Its own header may raise; the statements in it are looked at by themselves.
                parts: Iterable[ast.AST] = [
                    part
                    for part in ast.iter_child_nodes(node)
                    if isinstance(part, (ast.expr, ast.withitem)) and not _suppresses(part)
                ]
            else:
                parts = [node]
            if isinstance(node, (ast.Return, ast.Raise)) or any(_can_raise(part) for part in parts):
                return node
        return None

    def _in_other_branch(self, acquired: ast.stmt, node: ast.stmt) -> bool:
        """Whether the acquisition stands in one branch of an `if` or `try`, and `node` in another."""
        inside = {id(one) for one in (acquired, *self._source.up(acquired))}
        below: ast.AST = node
        for parent in self._source.up(node):
            if id(parent) in inside:
                if not isinstance(parent, (ast.If, ast.Try)):
                    return False
                mine = next(
                    name for name, value in ast.iter_fields(parent) if isinstance(value, list) and below in value
                )
                around = next(
                    one for one in (acquired, *self._source.up(acquired)) if self._source.parents.get(one) is parent
                )
                theirs = next(
                    name for name, value in ast.iter_fields(parent) if isinstance(value, list) and around in value
                )
                return mine != theirs
            below = parent
        return False

    def _is_caught(self, node: ast.stmt, released: ast.AST) -> bool:
        """Whether an `except` may catch what `node` raises, so that the release behind it is reached after all."""
        inner: ast.AST = node
        for parent in self._source.up(node):
            if (
                isinstance(parent, ast.Try)
                and parent.handlers
                and inner in parent.body
                and not _encloses(parent, released)
            ):
                return not isinstance(node, ast.Return)
            if isinstance(parent, ast.Try) and inner in parent.handlers:
                return True
            if (
                isinstance(parent, (ast.With, ast.AsyncWith))
                and not _encloses(parent, released)
                and any(_suppresses(item) for item in parent.items)
            ):
                return True
            inner = parent
        return False

    def _is_in(self, node: ast.AST, part: str) -> bool:
        inner = node
        for parent in self._source.up(node):
            if isinstance(parent, ast.Try) and inner in getattr(parent, part):
                return True
            inner = parent
        return False

    def _finally_of(self, node: ast.AST) -> ast.Try | None:
        """The `try` in whose `finally` the node stands."""
        inner = node
        for parent in self._source.up(node):
            if isinstance(parent, ast.Try) and inner in parent.finalbody:
                return parent
            inner = parent
        return None

    def _generator(
        self, call: ast.Call, statement: ast.stmt, name: str, scope: Scope, uses: _Uses, form: str
    ) -> Cure | None:
        if len(uses.yields) != 1 or any(self._is_in(release, "handlers") for release in uses.releases):
            return None
        waiting = uses.yields[0]
        for release in uses.releases:
            block = self._finally_of(release)
            if (block is not None and _encloses(block, waiting)) or _encloses(release, waiting):
                return None
        if any(_line(release) < waiting.lineno for release in uses.releases):
            return None
        if uses.releases:
            sentence = (
                f"{_function(scope)} gives {_quoted(name)} back in line {min(map(_line, uses.releases))} "
                f"only if nothing is raised at its `yield` in line {waiting.lineno}: "
                "an error of whoever uses it arrives there."
            )
        else:
            sentence = (
                f"{_function(scope)} never gives {_quoted(name)} back after its `yield` in line {waiting.lineno}."
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
            form = self._caller_form(call, node, awaited=awaited)
            if form is None:
                return None
            whole, part = self._source.header(statement), self._code(value)
            part = f"({part})" if is_async and isinstance(parent, ast.Attribute) else part
            if whole.count(part) != 1:
                return None
            inner = whole.replace(part, "conn") if isinstance(parent, ast.Attribute) else "..."
            sentence = (
                f"{_function(scope)} returns the connection, and line {node.lineno} in "
                f"{_function(self._source.scope(node))} lets it fall: nobody gives it back."
            )
            after = form.replace("    ...", f"    {inner}", 1) if "    ..." in form else f"{form}\n    {inner}"
            return self._cure("returned_and_dropped", sentence, statement, after)
        return None

    def _caller_form(self, call: ast.Call, outer: ast.Call, *, awaited: bool) -> str | None:
        """How a caller of the function that acquires is to be written."""
        got = self._code(outer)
        await_ = "await " if awaited else ""
        match self._library:
            case "psycopg" | "sqlalchemy" if _called(call) == "connect":
                return f"async with await {got} as conn:" if awaited else f"with {got} as conn:"
            case "psycopg2" | "sqlite3":
                return f"with contextlib.closing({got}) as conn:"
            case "psycopg_pool" | "psycopg2_pool" | "asyncpg_pool" if _is_global(call, self._source.tree):
                assert isinstance(call.func, ast.Attribute)
                method = "release" if self._library == "asyncpg_pool" else "putconn"
                release = f"{await_}{self._code(call.func.value)}.{method}(conn)"
                return f"conn = {await_}{got}\ntry:\n    ...\nfinally:\n    {release}"
        return None

    # ---- pools and engines

    def _for_pool(self, call: ast.Call) -> Cure | None:
        """An engine or pool that is made anew with each call of a function."""
        scope = self._source.scope(call)
        if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) or scope.decorator_list:
            return None
        value: ast.expr = call
        parent = self._source.parents[value]
        match parent:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case _:
                return None
        if any(isinstance(node, (ast.Global, ast.Nonlocal)) and name in node.names for node in ast.walk(scope)):
            return None
        if not self._stays(name, scope):
            return None
        what = "engine" if self._library == "sqlalchemy" else "pool"
        own = _local_names(scope)
        made = f"{_function(scope)} makes a new {what}, with connections of its own, each time it is called"
        sentence = f"{made}, and never closes it"
        line = self._source.header(parent)
        if any(isinstance(node, ast.Name) and node.id in own for node in ast.walk(call)):
            if self._library == "sqlalchemy":
                asynchronous = _called(call) == "create_async_engine"
                end = f"{'await ' if asynchronous else ''}{name}.dispose()"
                after = f"{line}\ntry:\n    ...\nfinally:\n    {end}"
            else:
                after = f"{'async ' if 'Async' in (_called(call) or '') else ''}with {self._code(call)} as {name}:"
            return self._cure("pool_in_function", f"{sentence}.", parent, after)
        return self._cure(
            "pool_in_function",
            f"{sentence}: make one for the whole process.",
            parent,
            f"{line}  # at module level, once",
        )

    def _stays(self, name: str, scope: Function) -> bool:
        """Whether the engine never leaves the function, and nothing there closes it."""
        for node in ast.walk(scope):
            if not isinstance(node, ast.Name) or node.id != name or not isinstance(node.ctx, ast.Load):
                continue
            parent = self._source.parents[node]
            if self._source.scope(node) is not scope:
                return False
            match parent:
                case ast.Attribute(attr="dispose" | "close"):
                    return False
                case ast.Attribute():
                    called = self._source.parents[parent]
                    if isinstance(self._source.parents.get(called), (ast.Return, ast.Yield)):
                        return False
                case ast.Call():
                    if _called(parent) not in _SESSIONS | {"create_all", "drop_all", "inspect"}:
                        return False
                case _:
                    return False
        return True

    # ---- the uses of a variable

    def _uses(self, name: str, scope: Scope, after: ast.Call) -> _Uses | None:
        """What happens to the variable in its function; None where it is more than one thing in the course of it."""
        uses = _Uses()
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

    def _use(self, node: ast.Name, uses: _Uses) -> None:
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

    def _argument(self, node: ast.Name, call: ast.Call, position: int, uses: _Uses) -> None:
        called = _called(call)
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
        uses = _Uses()
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and node.id == parameter:
                if not isinstance(node.ctx, ast.Load) or self._source.scope(node) is not function:
                    return False
                above = self._source.parents[node]
                if isinstance(above, ast.Call) and node in above.args:
                    return False
                self._use(node, uses)
        return not (uses.escapes or uses.releases or uses.yields or uses.returned or uses.detaches)

    # ---- words and code

    def _form(self, call: ast.Call, name: str, *, awaited: bool) -> str:
        """What to write instead of ``name = call``, with the names of the source."""
        code = self._code(call)
        match self._library, _called(call):
            case "psycopg_pool", _:
                if isinstance(call.func, ast.Attribute):
                    arguments = ", ".join(
                        [*map(self._code, call.args), *(f"{k.arg}={self._code(k.value)}" for k in call.keywords)]
                    )
                    code = f"{self._code(call.func.value)}.connection({arguments})"
                return f"{'async ' if awaited else ''}with {code} as {name}:"
            case "psycopg", _:
                return f"async with await {code} as {name}:" if awaited else f"with {code} as {name}:"
            case ("psycopg2" | "sqlite3", _) | (_, "raw_connection"):
                if awaited:
                    return f"{name} = await {code}\ntry:\n    ...\nfinally:\n    {name}.close()"
                return f"with contextlib.closing({code}) as {name}:"
            case "psycopg2_pool", _:
                pool = self._code(call.func.value) if isinstance(call.func, ast.Attribute) else "pool"
                return f"{name} = {code}\ntry:\n    ...\nfinally:\n    {pool}.putconn({name})"
            case "asyncpg", _:
                return f"{name} = await {code}\ntry:\n    ...\nfinally:\n    await {name}.close()"
            case "asyncpg_pool", _:
                return f"async with {code} as {name}:"
            case _:
                asynchronous = awaited or self._is_async(call)
                return f"{'async ' if asynchronous else ''}with {code} as {name}:"

    def _is_async(self, call: ast.Call) -> bool:
        """Whether a session of SQLAlchemy is an asynchronous one, by the name of what makes it."""
        called = _called(call)
        if called == "AsyncSession":
            return True
        for node in self._source.tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as made) if name == called:
                    return _called(made) == "async_sessionmaker" or "AsyncSession" in self._code(made)
        return False

    def _mentions(self, word: str) -> bool:
        return any(word in line for line in self._source.lines)

    def _code(self, node: ast.expr) -> str:
        return self._source.code(node)

    def _cure(self, kind: CureKind, sentence: str, statement: ast.stmt, after: str) -> Cure:
        before = redact.code_line(self._source.header(statement))
        return Cure(kind=kind, sentence=sentence, before=before, after="\n".join(map(_redacted, after.split("\n"))))


# --------------------------------------------------------------------------------------------------------- pieces


def _redacted(line: str) -> str:
    indent = len(line) - len(line.lstrip())
    return " " * indent + redact.code_line(line)


def _quoted(code: str) -> str:
    return f"`{redact.code_line(code)}`"


def _short(code: str) -> str:
    return code if len(code) <= 60 else f"{code[:59]}…"


def _function(scope: ast.AST) -> str:
    return f"{scope.name}()" if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) else "the module"


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))


def _called(call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return None


def _suppresses(node: ast.AST) -> bool:
    """Whether this is the ``suppress(...)`` of a ``with`` statement."""
    return (
        isinstance(node, ast.withitem)
        and isinstance(node.context_expr, ast.Call)
        and _called(node.context_expr) == "suppress"
    )


def _receiver(call: ast.Call) -> ast.Name | None:
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


def _is_global(call: ast.Call, tree: ast.Module) -> bool:
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


def _encloses(outer: ast.AST, inner: ast.AST) -> bool:
    return outer is not inner and any(node is inner for node in ast.walk(outer))


def _own_statements(scope: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a function, without those of functions and classes in it."""
    todo = list(ast.iter_child_nodes(scope))
    while todo:
        node = todo.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)


def _can_raise(node: ast.AST) -> bool:
    """Calls, subscripts, waiting and asserting can raise; what is left of Python does so in bugs only."""
    kinds = (ast.Call, ast.Await, ast.Subscript, ast.Assert, ast.For, ast.AsyncFor, ast.Yield, ast.YieldFrom)
    return any(isinstance(part, kinds) for part in ast.walk(node))


def _local_names(function: Function) -> set[str]:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    stored = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return {argument.arg for argument in named if argument is not None} | stored
