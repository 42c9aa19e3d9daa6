"""Prove that a piece of code gives back what it takes.

`leakguard.no_leaks()` raises `ConnectionLeakError` if a connection that was acquired inside is still held, or was
dropped, at the end. It needs no `install()`, so it fits into any test of any framework: as a block, as a decorator,
and as `async with`.

Run it: python examples/no_leaks.py
"""

import asyncio
import contextlib
import os

import psycopg

import leakguard
from leakguard.demo.postgres import PostgresServer

opened: list[psycopg.Connection] = []


def count_users(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        return len(connection.execute("SELECT generate_series(1, 3)").fetchall())


def remember_connection(dsn: str) -> None:
    opened.append(psycopg.connect(dsn))  # LEAK


@leakguard.no_leaks()
def test_count_users(dsn: str) -> None:
    assert count_users(dsn) == 3


async def test_async(dsn: str) -> None:
    # Other tasks of this process may hold what they like: only what this task and its children acquire is judged.
    async with leakguard.no_leaks(scope="context"):
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("SELECT 1")


def main(dsn: str) -> None:
    test_count_users(dsn)
    print("test_count_users: clean")
    asyncio.run(test_async(dsn))
    print("test_async: clean")
    try:
        with leakguard.no_leaks():
            remember_connection(dsn)
    except leakguard.ConnectionLeakError as error:
        print("remember_connection:", len(error.leaks), "leak\n")
        print(error)
    for connection in opened:
        connection.close()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        main(os.environ.get("LEAKGUARD_EXAMPLE_DSN") or stack.enter_context(PostgresServer()).dsn())
