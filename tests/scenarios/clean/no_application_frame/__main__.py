"""The same bare callables, whose connections somebody takes, uses and returns."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from psycopg_pool import AsyncConnectionPool, ConnectionPool


async def in_a_task():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2) as pool:
        conn = await asyncio.create_task(pool.getconn())
        for _ in range(3):
            await conn.execute("SELECT 1")
            await asyncio.sleep(0.5)
        await asyncio.create_task(pool.putconn(conn))
        await asyncio.sleep(0.2)
        stats = pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]


def in_an_executor():
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True) as pool:
        pool.wait()
        with ThreadPoolExecutor(1) as executor:
            conn = executor.submit(pool.getconn).result()
            print(conn.execute("SELECT 'used'").fetchone()[0])
            executor.submit(pool.putconn, conn).result()
        stats = pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]


def main():
    leaked = asyncio.run(in_a_task()) + in_an_executor()
    print(f"ORACLE leaked={leaked}")


main()
