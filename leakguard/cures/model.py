"""An advice, and how its words and lines are written: no password of the source is in them."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Literal

from leakguard import redact
from leakguard.cures.source import Source

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Cure:
    """What is wrong in one sentence, the line as it is, and what to write instead (perhaps several lines)."""

    kind: CureKind
    sentence: str
    before: str
    after: str


def written(source: Source, kind: CureKind, sentence: str, statement: ast.stmt, after: str) -> Cure:
    """The advice to put `after` where `statement` stands."""
    before = redact.code_line(source.header(statement))
    return Cure(kind=kind, sentence=sentence, before=before, after="\n".join(map(_redacted, after.split("\n"))))


def _redacted(line: str) -> str:
    indent = len(line) - len(line.lstrip())
    return " " * indent + redact.code_line(line)


def quoted(code: str) -> str:
    """Code in a sentence."""
    return f"`{redact.code_line(code)}`"


def short(code: str) -> str:
    """The beginning of it, if it is long."""
    return code if len(code) <= 60 else f"{code[:59]}…"


def function_words(scope: ast.AST) -> str:
    """A scope in a sentence."""
    return f"{scope.name}()" if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) else "the module"
