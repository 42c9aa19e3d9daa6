"""A checkout is taken in one worker thread, used in others, and returned in yet another: all in to_thread."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 30
# allow: nested_acquire
# oracle: 0
import asyncio
import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def take():
    return pool.getconn()


def use(conn, number):
    return conn.execute("SELECT %s::int + 1", (number,)).fetchone()[0]


async def request(number):
    conn = await asyncio.to_thread(take)
    try:
        first = await asyncio.to_thread(use, conn, number)
        await asyncio.sleep(1.2)
        return first + await asyncio.to_thread(use, conn, number)
    finally:
        await asyncio.to_thread(pool.putconn, conn)


async def main():
    print(await asyncio.gather(*(request(number) for number in (1, 2, 3))))
    await asyncio.sleep(0.3)
    stats = pool.get_stats()
    await asyncio.to_thread(pool.close)
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
