"""An async generator of rows over AsyncNullConnectionPool; the consumer breaks out, and nothing puts back."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import asyncio
import gc
import os

from psycopg_pool import AsyncNullConnectionPool


async def rows(pool, limit):
    conn = await pool.getconn()  # LEAK
    cur = await conn.execute("SELECT generate_series(1, %s)", (limit,))
    async for (number,) in cur:
        yield number
    await pool.putconn(conn)


async def first(pool, limit):
    async for number in rows(pool, limit):
        return number


async def main():
    async with AsyncNullConnectionPool(os.environ["ZOO_DSN"], max_size=4) as pool:
        print("all", sum([number async for number in rows(pool, 4)]))
        print("first", await first(pool, 100), await first(pool, 200))
        gc.collect()
        await asyncio.sleep(0.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size']}")


asyncio.run(main())
