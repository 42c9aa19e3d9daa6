"""`create_task(take(pool))` whose result nobody awaits in the end: the task is done, its result is garbage."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import asyncio
import gc
import os

from psycopg_pool import AsyncConnectionPool


async def take(pool):
    return await pool.getconn()  # LEAK


async def page(pool, cached):
    warm = asyncio.create_task(take(pool))
    await asyncio.sleep(0.2)
    if cached:
        return "from the cache"
    conn = await warm
    try:
        return (await (await conn.execute("SELECT 'from the database'")).fetchone())[0]
    finally:
        await pool.putconn(conn)


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4) as pool:
        for cached in (False, True, True):
            print(await page(pool, cached))
        gc.collect()
        await asyncio.sleep(0.3)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
