"""The async twin: `await conn.close()` on a checkout that somebody still refers to."""

# expect: kind=lost_slot library=psycopg_pool certain=yes count=1
# args: --owner-grace 0.5
# oracle: 1
import asyncio
import os

from psycopg_pool import AsyncConnectionPool


class Subscriber:
    async def start(self, pool):
        self.conn = await pool.getconn()  # LEAK
        await self.conn.set_autocommit(True)
        await self.conn.execute("LISTEN prices")

    async def stop(self):
        await self.conn.close()


async def main():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=3) as pool:
        subscriber = Subscriber()
        await subscriber.start(pool)
        await subscriber.stop()
        await asyncio.sleep(2.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
