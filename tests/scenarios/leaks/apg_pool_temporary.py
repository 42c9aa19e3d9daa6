"""`async with (await pool.acquire()).transaction():` ends the transaction, and leaves the checkout to nobody."""

# expect: kind=dropped library=asyncpg_pool certain=yes healed=no count=2
# oracle: 2
# needs: asyncpg
import asyncio
import os

import asyncpg


async def store(pool):
    async with (await pool.acquire()).transaction():  # LEAK
        await asyncio.sleep(0.7)


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=4)
    await store(pool)
    await store(pool)
    await asyncio.sleep(1.2)
    print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
    pool.terminate()


asyncio.run(main())
