"""Checkouts cross tasks: acquired in one that ends, used and returned by another, or waited for under a timeout."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


async def take(pool):
    return await pool.getconn()


async def page(pool, number):
    conn = await asyncio.create_task(take(pool))
    try:
        for _ in range(4):
            await conn.execute("SELECT 1")
            await asyncio.sleep(0.4)
        return number
    finally:
        await asyncio.create_task(pool.putconn(conn))


async def impatient(pool):
    try:
        conn = await asyncio.wait_for(pool.getconn(), 0.3)
    except TimeoutError:
        return "gave up"
    await pool.putconn(conn)
    return "served"


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=2, max_size=2) as pool:
        pages = [asyncio.create_task(page(pool, number)) for number in (1, 2)]
        await asyncio.sleep(0.4)
        print(await impatient(pool))
        print(await asyncio.gather(*pages))
        print(await impatient(pool))
        await asyncio.sleep(0.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
