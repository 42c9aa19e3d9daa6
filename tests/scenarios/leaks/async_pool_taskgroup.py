"""One task of a TaskGroup fails; its sibling is cancelled while it holds a checkout outside any `finally`."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import asyncio
import gc
import os

from psycopg_pool import AsyncConnectionPool


async def sibling(pool):
    conn = await pool.getconn()  # LEAK
    await conn.execute("SELECT 1")
    await asyncio.sleep(10)
    await pool.putconn(conn)


async def failing(pool):
    async with pool.connection() as conn:
        await conn.execute("SELECT 1")
    await asyncio.sleep(0.2)
    raise ConnectionAbortedError("client went away")


async def request(pool):
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling(pool))
            group.create_task(failing(pool))
    except* ConnectionAbortedError as group:
        print(group.exceptions[0])


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5) as pool:
        for _ in range(2):
            await request(pool)
        gc.collect()
        await asyncio.sleep(0.3)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
