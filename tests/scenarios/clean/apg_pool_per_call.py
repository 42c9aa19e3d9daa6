"""A pool for each loop, closed by its context; one that is closed by hand; and one that was never initialized."""

# expect: nothing
# args: --fail
# needs: asyncpg
import asyncio
import gc
import os

import asyncpg

DSN = os.environ["ZOO_DSN"]


async def answer(sql):
    async with asyncpg.create_pool(DSN, min_size=1, max_size=2) as pool:
        return await pool.fetchval(sql)


async def by_hand(sql):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=2)
    value = await pool.fetchval(sql)
    await pool.close()
    return value


async def never_initialized():
    asyncpg.create_pool(DSN, min_size=1, max_size=2)


def main():
    print(asyncio.run(answer("SELECT 41")), asyncio.run(by_hand("SELECT 42")))
    asyncio.run(never_initialized())
    gc.collect()


main()
