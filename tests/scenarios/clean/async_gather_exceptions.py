"""The same gather over `async with`; the exceptions live for long, and no checkout is in them any more."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def parse(pool, text):
    async with pool.connection() as conn:
        cur = await conn.execute("SELECT %s::int", (text,))
        return (await cur.fetchone())[0]


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5) as pool:
        jobs = [parse(pool, text) for text in ("1", "two", "3", "four")]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        print([type(result).__name__ for result in results])
        await asyncio.sleep(1.5)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
