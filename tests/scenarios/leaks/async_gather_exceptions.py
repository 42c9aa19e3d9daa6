"""gather(return_exceptions=True): the results list keeps the exceptions, and these keep the tasks' checkouts."""

# expect: kind=orphaned library=psycopg_pool certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def parse(pool, text):
    conn = await pool.getconn()  # LEAK
    await conn.set_autocommit(True)
    cur = await conn.execute("SELECT %s::int", (text,))
    number = (await cur.fetchone())[0]
    await pool.putconn(conn)
    return number


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5) as pool:
        jobs = [parse(pool, text) for text in ("1", "two", "3", "four")]
        results = await asyncio.gather(*jobs, return_exceptions=True)
        print([type(result).__name__ for result in results])
        await asyncio.sleep(2.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
