"""The marker below a line of source: where in it the call stands that acquired."""

from __future__ import annotations

import ast
from typing import Final

_CODE_LIMIT: Final = 200  # what the parser is given; deep nesting makes it slow, or worse


def call_span(code: str, operation: str) -> tuple[int, int]:
    """Where in a source line the acquiring call stands: start and end column, all of the line if that is unclear.

    `operation` is the name of what was called, perhaps dotted. The line may be the beginning of a statement only.
    """
    everything = (0, len(code))
    # A backslash could be a bad escape sequence, about which the parser would print a warning of its own.
    if len(code) > _CODE_LIMIT or "\\" in code:
        return everything
    calls = _calls(code)
    name = operation.rpartition(".")[2]
    named = [call for call in calls if _called_name(call) == name]
    if len(named) != 1:
        # The driver's call lies deeper than this line: then the outermost call led there, if there is just one.
        named = [call for call in calls if not any(_contains(other, call) for other in calls)]
    if len(named) != 1:
        return everything
    encoded = code.encode("utf-8", "surrogatepass")  # the parser counts bytes
    end = named[0].end_col_offset
    return _column(encoded, named[0].col_offset), _column(encoded, end) if end is not None else len(code)


def _calls(code: str) -> list[ast.Call]:
    # "***" stands for a secret; as a literal of the same length it is Python again.
    for line in (code, code.replace("***", "'*'")):
        # The line may open a block, or a bracket that a later line closes: complete it as simply as possible.
        for ending in ("", " pass", ")", "): pass", "\nfinally: pass"):
            try:
                tree = ast.parse(line + ending)
            except (SyntaxError, ValueError, MemoryError, RecursionError):
                continue
            return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return []


def _called_name(call: ast.Call) -> str | None:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return None


def _contains(outer: ast.Call, inner: ast.Call) -> bool:
    return outer is not inner and any(node is inner for node in ast.walk(outer))


def _column(encoded: bytes, offset: int) -> int:
    return len(encoded[:offset].decode("utf-8", "surrogatepass"))
