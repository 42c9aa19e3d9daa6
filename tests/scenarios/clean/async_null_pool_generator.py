"""The same generator with `async with`: the loop finishes an abandoned one. The careful consumer uses aclosing()."""

# expect: nothing
# args: --fail
# allow: nested_acquire
# oracle: 0
import asyncio
import gc
import os
from contextlib import aclosing

from psycopg_pool import AsyncNullConnectionPool


async def rows(pool, limit):
    async with pool.connection() as conn:
        cur = await conn.execute("SELECT generate_series(1, %s)", (limit,))
        async for (number,) in cur:
            yield number


async def first(pool, limit):
    async for number in rows(pool, limit):
        return number


async def careful(pool, limit):
    async with aclosing(rows(pool, limit)) as numbers:
        async for number in numbers:
            return number


async def main():
    async with AsyncNullConnectionPool(os.environ["ZOO_DSN"], max_size=4) as pool:
        print("all", sum([number async for number in rows(pool, 4)]))
        print("first", await first(pool, 100), await careful(pool, 200))
        gc.collect()
        await asyncio.sleep(0.3)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size']}")


asyncio.run(main())
