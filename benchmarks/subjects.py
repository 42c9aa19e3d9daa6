"""What is measured: the acquire/release pairs of four kinds of pool, on a real server.

Beside each stands what people write by hand to find leaks: remember ``traceback.format_stack()`` at the acquire; and
what SQLAlchemy itself offers, ``echo_pool``, which logs to standard output.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import event
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from timing import InLoop, InThreads, Operation, Runner
from variants import ASYNC_PSYCOPG_POOL, ASYNC_SQLALCHEMY, ECHO, LISTENER, PSYCOPG_POOL, SQLALCHEMY

SELECT = sqlalchemy.text("SELECT 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uses:
    """What is timed: an acquire with its release, and the same around one ``SELECT 1``.

    Async ones are coroutine functions; the subject's `runner` knows how to run them.
    """

    pair: Operation
    select: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One kind of pool: how to run it, as it is, and with other people's ways to find leaks, by name."""

    runner: Runner
    bare: Uses
    others: Mapping[str, Callable[[], AbstractContextManager[Uses]]]


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
def _psycopg_pool(dsn: str, size: int) -> Iterator[Subject]:
    with (
        ConnectionPool(dsn, min_size=size, max_size=size, num_workers=1) as pool,
        ListeningPool(dsn, min_size=size, max_size=size, num_workers=1, open=False) as listening_pool,
    ):
        listening_pool.stacks = {}
        pool.wait()
        listening_pool.wait()
        yield Subject(
            runner=InThreads(),
            bare=_uses_of(pool),
            others={LISTENER: lambda: nullcontext(_uses_of(listening_pool))},
        )


def _uses_of(pool: ConnectionPool[Any]) -> Uses:
    def pair() -> None:
        connection = pool.getconn()
        pool.putconn(connection)

    def select() -> None:
        with pool.connection() as connection:
            connection.execute("SELECT 1")

    return Uses(pair=pair, select=select)


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
def _async_psycopg_pool(dsn: str, size: int) -> Iterator[Subject]:
    with asyncio.Runner() as runner:
        pool = AsyncConnectionPool(dsn, min_size=size, max_size=size, num_workers=1, open=False)
        listening_pool = AsyncListeningPool(dsn, min_size=size, max_size=size, num_workers=1, open=False)
        listening_pool.stacks = {}
        runner.run(pool.open(wait=True))
        runner.run(listening_pool.open(wait=True))
        try:
            yield Subject(
                runner=InLoop(runner),
                bare=_async_uses_of(pool),
                others={LISTENER: lambda: nullcontext(_async_uses_of(listening_pool))},
            )
        finally:
            runner.run(pool.close())
            runner.run(listening_pool.close())


def _async_uses_of(pool: AsyncConnectionPool[Any]) -> Uses:
    async def pair() -> None:
        connection = await pool.getconn()
        await pool.putconn(connection)

    async def select() -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")

    return Uses(pair=pair, select=select)


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
def _sqlalchemy(dsn: str, size: int) -> Iterator[Subject]:
    engine, echoing = (
        sqlalchemy.create_engine(_url(dsn), pool_size=size, max_overflow=0, echo_pool=echo) for echo in (None, "debug")
    )

    @contextmanager
    def listening() -> Iterator[Uses]:
        with _listening_to(engine):
            yield _uses_of_engine(engine)

    try:
        yield Subject(
            runner=InThreads(),
            bare=_uses_of_engine(engine),
            others={LISTENER: listening, ECHO: lambda: nullcontext(_uses_of_engine(echoing))},
        )
    finally:
        engine.dispose()
        echoing.dispose()


def _uses_of_engine(engine: sqlalchemy.Engine) -> Uses:
    def pair() -> None:
        connection = engine.connect()
        connection.close()

    def select() -> None:
        with engine.connect() as connection:
            connection.execute(SELECT)

    return Uses(pair=pair, select=select)


@contextmanager
def _async_sqlalchemy(dsn: str, size: int) -> Iterator[Subject]:
    # By its module: OpenTelemetry puts its own function there.
    engine, echoing = (
        sqlalchemy_asyncio.create_async_engine(_url(dsn), pool_size=size, max_overflow=0, echo_pool=echo)
        for echo in (None, "debug")
    )

    @contextmanager
    def listening() -> Iterator[Uses]:
        with _listening_to(engine.sync_engine):
            yield _uses_of_async_engine(engine)

    with asyncio.Runner() as runner:
        try:
            yield Subject(
                runner=InLoop(runner),
                bare=_uses_of_async_engine(engine),
                others={LISTENER: listening, ECHO: lambda: nullcontext(_uses_of_async_engine(echoing))},
            )
        finally:
            runner.run(engine.dispose())
            runner.run(echoing.dispose())


def _uses_of_async_engine(engine: sqlalchemy_asyncio.AsyncEngine) -> Uses:
    async def pair() -> None:
        connection = await engine.connect()
        await connection.close()

    async def select() -> None:
        async with engine.connect() as connection:
            await connection.execute(SELECT)

    return Uses(pair=pair, select=select)


def _url(dsn: str) -> str:
    return dsn.replace("postgresql://", "postgresql+psycopg://", 1)


OPENERS: dict[str, Callable[[str, int], AbstractContextManager[Subject]]] = {
    PSYCOPG_POOL: _psycopg_pool,
    SQLALCHEMY: _sqlalchemy,
    ASYNC_PSYCOPG_POOL: _async_psycopg_pool,
    ASYNC_SQLALCHEMY: _async_sqlalchemy,
}
"""By name: opens the subject on the server of a DSN, with pools of that many connections each."""
