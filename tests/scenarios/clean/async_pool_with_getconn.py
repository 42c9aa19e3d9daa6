"""200 tasks over a pool of four, each with a short `async with pool.connection()`."""

# expect: nothing
# args: --fail --threshold 3 --owner-grace 0.5
# oracle: 0
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def price(pool, number):
    async with pool.connection() as conn:
        cur = await conn.execute("SELECT %s::int * 100", (number,))
        return (await cur.fetchone())[0]


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4) as pool:
        print(sum(await asyncio.gather(*(price(pool, number) for number in range(200)))))
        await asyncio.sleep(1)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
