"""`async with await pool.getconn()` commits, but never returns; the asyncio.gather results look fine."""

# expect: kind=dropped library=psycopg_pool certain=yes count=3 healed=no
# oracle: 3
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def price(pool, sku):
    async with await pool.getconn() as conn:  # LEAK
        cur = await conn.execute("SELECT length(%s) * 100", (sku,))
        return (await cur.fetchone())[0]


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4) as pool:
        print(await asyncio.gather(*(price(pool, sku) for sku in ("a", "bb", "ccc"))))
        await asyncio.sleep(0.3)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
