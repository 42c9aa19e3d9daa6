"""The sibling is cancelled inside `async with`: the checkout goes back."""

# expect: nothing
# args: --fail
# oracle: 0
import asyncio
import gc
import os

from psycopg_pool import AsyncConnectionPool


async def sibling(pool):
    async with pool.connection() as conn:
        await conn.execute("SELECT pg_sleep(10)")


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
