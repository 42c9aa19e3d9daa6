"""Healthy traffic of every kind, as fast as it goes: threads, tasks, cancellations, forks, and a server that hangs up.

    python traffic.py DSN SECONDS

Everything that is acquired is given back, whatever happens. Prints one JSON object: how many operations were done, how
many of them failed, and what leakguard's own code had allocated after a third of the time and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

import leakguard

OWN = str(Path(leakguard.__file__).parent / "*")
EXPECTED = (
    psycopg.Error,
    sa.exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
"""What an application meets when its server hangs up; anything else is a bug, and ends the program."""


class Traffic:
    """The pools, and what is done with them until `end`."""

    def __init__(self, dsn: str, seconds: float) -> None:
        self.dsn = f"{dsn}?application_name=soak"
        self.end = time.monotonic() + seconds
        self.done, self.failed = 0, 0
        self.crashes: list[str] = []
        self.pool = ConnectionPool(self.dsn, min_size=1, max_size=3, open=True, timeout=10)
        self.engine = sa.create_engine(self.url("psycopg"), pool_size=1, max_overflow=2, pool_pre_ping=True)

    def url(self, driver: str) -> str:
        return self.dsn.replace("postgresql://", f"postgresql+{driver}://", 1)

    def count(self, work: Callable[[], None]) -> None:
        """Do it once, and take it as an application takes a server that hangs up."""
        try:
            work()
        except EXPECTED:
            self.failed += 1
        self.done += 1

    def until_the_end(self, *works: Callable[[], None]) -> None:
        """The life of one thread."""
        try:
            while time.monotonic() < self.end:
                self.count(random.choice(works))
        except BaseException as error:
            self.crashes.append(repr(error))
            raise

    # ------------------------------------------------------------------ threads

    def with_pool(self) -> None:
        with self.pool.connection() as connection:
            connection.execute("SELECT 1")

    def with_putconn(self) -> None:
        connection = self.pool.getconn()
        try:
            with connection.transaction():
                connection.execute("SELECT pg_sleep(0.001)")
        finally:
            self.pool.putconn(connection)

    def with_engine(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text("SELECT 1"))

    def with_session(self) -> None:
        with Session(self.engine) as session:
            session.execute(sa.text("SELECT 1"))
            if random.random() < 0.2:
                session.connection().invalidate()

    def with_detached(self) -> None:
        connection = self.engine.connect()
        try:
            if random.random() < 0.5:
                connection.detach()
            connection.execute(sa.text("SELECT 1"))
        finally:
            connection.close()

    def direct(self) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute("SELECT 1")

    def borrowed_by_a_thread(self) -> None:
        with self.pool.connection() as connection:
            thread = threading.Thread(target=self.count, args=(lambda: connection.execute("SELECT 1"),))
            thread.start()
            thread.join()

    def forked(self) -> None:
        """A child that inherits everything, uses a connection of its own, and leaves without a word."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException), psycopg.connect(self.dsn) as connection:
                connection.execute("SELECT 1")
            os._exit(0)
        os.waitpid(child, 0)
        time.sleep(0.3)

    def hang_up(self) -> None:
        """The server ends some sessions."""
        with psycopg.connect(self.dsn.replace("soak", "hang-up"), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'soak'"
                " AND random() < 0.3"
            )
        time.sleep(0.4)

    # ------------------------------------------------------------------ tasks

    async def tasks(self) -> None:
        """Tasks that acquire, some of which are cancelled at any moment."""
        url, _, name = self.url("asyncpg").partition("?application_name=")
        named = {"server_settings": {"application_name": name}}
        engine = create_async_engine(url, pool_size=1, max_overflow=1, pool_pre_ping=True, connect_args=named)
        async with (
            AsyncConnectionPool(self.dsn, min_size=1, max_size=2, open=False, timeout=10) as pool,
            asyncpg.create_pool(self.dsn, min_size=1, max_size=2) as other,
        ):

            async def with_pool() -> None:
                connection = await pool.getconn()
                try:
                    async with connection:
                        await connection.execute("SELECT pg_sleep(0.001)")
                finally:  # `pool.connection()` loses the slot of who is cancelled right here: see test_accounts.py
                    await asyncio.shield(pool.putconn(connection))

            async def with_asyncpg() -> None:
                async with other.acquire() as connection, connection.transaction():
                    await connection.fetchval("SELECT 1")

            async def with_engine() -> None:
                async with engine.connect() as connection:
                    await connection.execute(sa.text("SELECT 1"))

            async def with_timeout() -> None:
                connection = await asyncio.wait_for(other.acquire(), 10)
                try:
                    await connection.execute("SELECT 1")
                finally:
                    await other.release(connection)

            async def worker() -> None:
                while time.monotonic() < self.end:
                    task = asyncio.create_task(random.choice((with_pool, with_asyncpg, with_engine, with_timeout))())
                    if random.random() < 0.3:
                        await asyncio.sleep(random.random() * 0.005)
                        task.cancel()
                    try:
                        await task
                    except (asyncio.CancelledError, TimeoutError, *EXPECTED):
                        self.failed += 1
                    self.done += 1

            try:
                await asyncio.gather(*(worker() for _ in range(8)))
            except BaseException as error:
                self.crashes.append(repr(error))
                raise
            finally:
                await engine.dispose()

    def run(self) -> None:
        """Everything at once."""
        calls = (self.with_pool, self.with_putconn, self.with_engine, self.with_session, self.with_detached)
        threads = [
            *(threading.Thread(target=self.until_the_end, args=calls) for _ in range(3)),
            threading.Thread(target=self.until_the_end, args=(self.direct, self.borrowed_by_a_thread)),
            threading.Thread(target=self.until_the_end, args=(self.forked, self.hang_up)),
            threading.Thread(target=lambda: asyncio.run(self.tasks())),
        ]
        for thread in threads:
            thread.start()
        third = (self.end - time.monotonic()) / 3
        time.sleep(third)
        warm = allocated()
        for thread in threads:
            thread.join()
        self.pool.close()
        self.engine.dispose()
        print(
            json.dumps(
                {
                    "done": self.done,
                    "failed": self.failed,
                    "crashes": self.crashes,
                    "warm": warm,
                    "end": allocated(),
                    "held": len(leakguard.holds()),
                }
            )
        )


def allocated() -> int:
    """How many bytes leakguard's own lines have allocated and not given back."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, OWN)])
    return sum(statistic.size for statistic in snapshot.statistics("filename"))


if __name__ == "__main__":
    tracemalloc.start(1)
    Traffic(sys.argv[1], float(sys.argv[2])).run()
