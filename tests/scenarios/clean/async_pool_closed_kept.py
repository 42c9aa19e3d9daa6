"""The subscriber detaches for good: it closes, then gives the closed connection to putconn()."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


class Subscriber:
    async def start(self, pool):
        self.pool = pool
        self.conn = await pool.getconn()
        await self.conn.set_autocommit(True)
        await self.conn.execute("LISTEN prices")

    async def stop(self):
        await self.conn.close()
        await self.pool.putconn(self.conn)


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=3) as pool:
        subscriber = Subscriber()
        await subscriber.start(pool)
        await subscriber.stop()
        await asyncio.sleep(1.5)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
