"""Blocking code under asyncio.to_thread takes a checkout of a sync pool and leaves without it."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import asyncio
import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def blocking(number):
    conn = pool.getconn()  # LEAK
    return conn.execute("SELECT %s::int + 1", (number,)).fetchone()[0]


async def main():
    print(await asyncio.gather(*(asyncio.to_thread(blocking, number) for number in (1, 2))))
    await asyncio.sleep(0.4)
    stats = pool.get_stats()
    await asyncio.to_thread(pool.close)
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
