"""Statements that are cancelled: by cancel() from another thread, by statement_timeout, by a cancelled task."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import asyncio
import os
import threading
import time

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool

DSN = os.environ["ZOO_DSN"]


def from_a_thread(pool):
    with pool.connection() as conn:
        timer = threading.Timer(0.3, conn.cancel_safe)
        timer.start()
        try:
            conn.execute("SELECT pg_sleep(5)")
        except psycopg.errors.QueryCanceled as error:
            print("cancel:", type(error).__name__)
        conn.rollback()
        timer.join()


def by_timeout(pool):
    try:
        with pool.connection() as conn:
            conn.execute("SET LOCAL statement_timeout = 200")
            conn.execute("SELECT pg_sleep(5)")
    except psycopg.errors.QueryCanceled as error:
        print("timeout:", type(error).__name__)


async def by_task():
    async with AsyncConnectionPool(DSN, min_size=1, max_size=2) as pool:

        async def sleeper():
            async with pool.connection() as conn:
                await conn.execute("SELECT pg_sleep(5)")

        task = asyncio.create_task(sleeper())
        await asyncio.sleep(0.3)
        task.cancel()
        print("task:", (await asyncio.gather(task, return_exceptions=True))[0].__class__.__name__)
        await asyncio.sleep(0.8)
        stats = pool.get_stats()
        return stats["pool_size"] - stats["pool_available"]


def main():
    with ConnectionPool(DSN, min_size=1, max_size=2, open=True) as pool:
        from_a_thread(pool)
        by_timeout(pool)
        time.sleep(0.8)
        stats = pool.get_stats()
    leaked = stats["pool_size"] - stats["pool_available"] + asyncio.run(by_task())
    print(f"ORACLE leaked={leaked}")


main()
