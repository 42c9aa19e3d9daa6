"""What is measured: the acquire/release pairs of four kinds of pool, on a real server.

Beside each stands what people write by hand to find leaks: remember ``traceback.format_stack()`` at the acquire.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
import sqlalchemy
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from timing import AsyncOperation, Operation, Taken, Timer, time_async, time_sync

SELECT = sqlalchemy.text("SELECT 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One kind of pool: how it is called, and what is timed.

    `listening` gives `pair` with the listener in place that people write by hand. Async operations are coroutine
    functions; `timer` knows how to run them.
    """

    name: str
    pair_is: str
    timer: Timer
    pair: Operation
    select: Operation
    listening: Callable[[], Any]


@contextmanager
def subjects(dsn: str) -> Iterator[list[Subject]]:
    """All four, with open pools of one connection each."""
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        yield [
            stack.enter_context(_psycopg_pool(dsn)),
            stack.enter_context(_sqlalchemy(dsn)),
            stack.enter_context(_async_psycopg_pool(dsn, runner)),
            stack.enter_context(_async_sqlalchemy(dsn, runner)),
        ]


# --- psycopg_pool ----------------------------------------------------------------------------------------------------


class ListeningPool(ConnectionPool[psycopg.Connection[Any]]):
    """psycopg_pool has no events: by hand, one writes a subclass."""

    stacks: dict[int, list[str]]

    def getconn(self, timeout: float | None = None) -> psycopg.Connection[Any]:
        connection = super().getconn(timeout)
        self.stacks[id(connection)] = traceback.format_stack()
        return connection

    def putconn(self, conn: psycopg.Connection[Any]) -> None:
        self.stacks.pop(id(conn), None)
        super().putconn(conn)


@contextmanager
def _psycopg_pool(dsn: str) -> Iterator[Subject]:
    with (
        ConnectionPool(dsn, min_size=1, max_size=1, num_workers=1) as pool,
        ListeningPool(dsn, min_size=1, max_size=1, num_workers=1, open=False) as listening_pool,
    ):
        listening_pool.stacks = {}
        pool.wait()
        listening_pool.wait()

        def pair() -> None:
            connection = pool.getconn()
            pool.putconn(connection)

        def listening_pair() -> None:
            connection = listening_pool.getconn()
            listening_pool.putconn(connection)

        def select() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT 1")

        @contextmanager
        def listening() -> Iterator[Operation]:
            yield listening_pair

        yield Subject(
            name="psycopg_pool",
            pair_is="ConnectionPool.getconn / putconn",
            timer=time_sync,
            pair=pair,
            select=select,
            listening=listening,
        )


class AsyncListeningPool(AsyncConnectionPool[psycopg.AsyncConnection[Any]]):
    """The same for the async pool."""

    stacks: dict[int, list[str]]

    async def getconn(self, timeout: float | None = None) -> psycopg.AsyncConnection[Any]:
        connection = await super().getconn(timeout)
        self.stacks[id(connection)] = traceback.format_stack()
        return connection

    async def putconn(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self.stacks.pop(id(conn), None)
        await super().putconn(conn)


@contextmanager
def _async_psycopg_pool(dsn: str, runner: asyncio.Runner) -> Iterator[Subject]:
    pool = AsyncConnectionPool(dsn, min_size=1, max_size=1, num_workers=1, open=False)
    listening_pool = AsyncListeningPool(dsn, min_size=1, max_size=1, num_workers=1, open=False)
    listening_pool.stacks = {}

    async def pair() -> None:
        connection = await pool.getconn()
        await pool.putconn(connection)

    async def listening_pair() -> None:
        connection = await listening_pool.getconn()
        await listening_pool.putconn(connection)

    async def select() -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")

    @contextmanager
    def listening() -> Iterator[AsyncOperation]:
        yield listening_pair

    runner.run(pool.open(wait=True))
    runner.run(listening_pool.open(wait=True))
    try:
        yield Subject(
            name="psycopg_pool, async",
            pair_is="AsyncConnectionPool.getconn / putconn",
            timer=_in_loop(runner),
            pair=pair,
            select=select,
            listening=listening,
        )
    finally:
        runner.run(pool.close())
        runner.run(listening_pool.close())


# --- SQLAlchemy ------------------------------------------------------------------------------------------------------


@contextmanager
def _listening_to(engine: sqlalchemy.Engine) -> Iterator[None]:
    """By hand, one listens to the pool's events."""
    stacks: dict[int, list[str]] = {}

    def checkout(_connection: object, record: object, _proxy: object) -> None:
        stacks[id(record)] = traceback.format_stack()

    def checkin(_connection: object, record: object) -> None:
        stacks.pop(id(record), None)

    event.listen(engine.pool, "checkout", checkout)
    event.listen(engine.pool, "checkin", checkin)
    try:
        yield
    finally:
        event.remove(engine.pool, "checkout", checkout)
        event.remove(engine.pool, "checkin", checkin)


@contextmanager
def _sqlalchemy(dsn: str) -> Iterator[Subject]:
    engine = sqlalchemy.create_engine(_url(dsn))

    def pair() -> None:
        connection = engine.connect()
        connection.close()

    def select() -> None:
        with engine.connect() as connection:
            connection.execute(SELECT)

    @contextmanager
    def listening() -> Iterator[Operation]:
        with _listening_to(engine):
            yield pair

    try:
        yield Subject(
            name="SQLAlchemy",
            pair_is="Engine.connect / Connection.close, QueuePool over psycopg",
            timer=time_sync,
            pair=pair,
            select=select,
            listening=listening,
        )
    finally:
        engine.dispose()


@contextmanager
def _async_sqlalchemy(dsn: str, runner: asyncio.Runner) -> Iterator[Subject]:
    engine = create_async_engine(_url(dsn))

    async def pair() -> None:
        connection = await engine.connect()
        await connection.close()

    async def select() -> None:
        async with engine.connect() as connection:
            await connection.execute(SELECT)

    @contextmanager
    def listening() -> Iterator[AsyncOperation]:
        with _listening_to(engine.sync_engine):
            yield pair

    try:
        yield Subject(
            name="SQLAlchemy, async",
            pair_is="AsyncEngine.connect / AsyncConnection.close, over psycopg",
            timer=_in_loop(runner),
            pair=pair,
            select=select,
            listening=listening,
        )
    finally:
        runner.run(engine.dispose())


def _url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


def _in_loop(runner: asyncio.Runner) -> Timer:
    def timer(operation: Operation, depth: int, times: int) -> Taken:
        return runner.run(time_async(cast("Callable[[], Awaitable[object]]", operation), depth, times))

    return timer
