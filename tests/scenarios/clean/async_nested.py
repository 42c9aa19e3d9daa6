"""Two tasks of one thread each hold one checkout at the same time: nothing is nested."""

# expect: nothing
# args: --fail
# oracle: 0
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def ask(pool, together, word):
    async with pool.connection() as conn:
        await together.wait()
        return (await (await conn.execute("SELECT upper(%s)", (word,))).fetchone())[0]


async def page(pool):
    together = asyncio.Barrier(3)
    return await asyncio.gather(*(ask(pool, together, word) for word in ("title", "body", "foot")))


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=3, max_size=3) as pool:
        print(await page(pool), await page(pool))
        await asyncio.sleep(0.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
