"""A pool with room, and a setup that is too slow once: a TimeoutError, but no want of a connection."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg

pauses = [5.0]


async def setup(con):
    if pauses:
        await asyncio.sleep(pauses.pop())


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=2, setup=setup) as pool:
        try:
            await pool.acquire(timeout=0.3)
        except TimeoutError as error:
            print(repr(str(error)), getattr(error, "__notes__", []))
        con = await pool.acquire(timeout=5)
        print(await con.fetchval("SELECT 1"))
        await pool.release(con)
        print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")


asyncio.run(main())
