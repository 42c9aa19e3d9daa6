"""What to write instead, for each library, with the names of the source."""

from __future__ import annotations

import ast

from leakguard.cures.source import Source
from leakguard.cures.trees import called_name, is_global


def form_of(source: Source, library: str, call: ast.Call, name: str, *, awaited: bool) -> str:
    """What to write instead of ``name = call``, with the names of the source."""
    code = source.code(call)
    match library, called_name(call):
        case "psycopg_pool", _:
            if isinstance(call.func, ast.Attribute):
                arguments = ", ".join(
                    [*map(source.code, call.args), *(f"{k.arg}={source.code(k.value)}" for k in call.keywords)]
                )
                code = f"{source.code(call.func.value)}.connection({arguments})"
            return f"{'async ' if awaited else ''}with {code} as {name}:"
        case "psycopg", _:
            return f"async with await {code} as {name}:" if awaited else f"with {code} as {name}:"
        case ("psycopg2" | "sqlite3", _) | (_, "raw_connection"):
            if awaited:
                return f"{name} = await {code}\ntry:\n    ...\nfinally:\n    {name}.close()"
            return f"with contextlib.closing({code}) as {name}:"
        case "psycopg2_pool", _:
            pool = source.code(call.func.value) if isinstance(call.func, ast.Attribute) else "pool"
            return f"{name} = {code}\ntry:\n    ...\nfinally:\n    {pool}.putconn({name})"
        case "asyncpg", _:
            return f"{name} = await {code}\ntry:\n    ...\nfinally:\n    await {name}.close()"
        case "asyncpg_pool", _:
            return f"async with {code} as {name}:"
        case _:
            asynchronous = awaited or _is_async(source, call)
            return f"{'async ' if asynchronous else ''}with {code} as {name}:"


def caller_form(source: Source, library: str, call: ast.Call, outer: ast.Call, *, awaited: bool) -> str | None:
    """How a caller of the function that acquires is to be written."""
    got = source.code(outer)
    await_ = "await " if awaited else ""
    match library:
        case "psycopg" | "sqlalchemy" if called_name(call) == "connect":
            return f"async with await {got} as conn:" if awaited else f"with {got} as conn:"
        case "psycopg2" | "sqlite3":
            return f"with contextlib.closing({got}) as conn:"
        case "psycopg_pool" | "psycopg2_pool" | "asyncpg_pool" if is_global(call, source.tree):
            assert isinstance(call.func, ast.Attribute)
            method = "release" if library == "asyncpg_pool" else "putconn"
            release = f"{await_}{source.code(call.func.value)}.{method}(conn)"
            return f"conn = {await_}{got}\ntry:\n    ...\nfinally:\n    {release}"
    return None


def _is_async(source: Source, call: ast.Call) -> bool:
    """Whether a session of SQLAlchemy is an asynchronous one, by the name of what makes it."""
    called = called_name(call)
    if called == "AsyncSession":
        return True
    for node in source.tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as made) if name == called:
                return called_name(made) == "async_sessionmaker" or "AsyncSession" in source.code(made)
    return False
