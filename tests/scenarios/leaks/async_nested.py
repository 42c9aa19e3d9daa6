"""A coroutine holds a checkout and awaits a helper that asks the same async pool again."""

# expect: kind=nested_acquire library=psycopg_pool certain=no count=1
# oracle: 1
import asyncio
import os

from psycopg_pool import AsyncConnectionPool

depths = []


async def count_items(pool):
    async with pool.connection() as conn:  # LEAK
        stats = pool.get_stats()
        depths.append(stats["pool_size"] - stats["pool_available"])
        return (await (await conn.execute("SELECT 3")).fetchone())[0]


async def page(pool):
    async with pool.connection() as conn:
        title = (await (await conn.execute("SELECT 'items: '")).fetchone())[0]
        return title + str(await count_items(pool))


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=2, max_size=3) as pool:
        await pool.wait()
        print(await page(pool))
    print(f"ORACLE leaked={sum(depth > 1 for depth in depths)}")


asyncio.run(main())
