"""A handler acquires and returns early: the pool refers to the checkout for ever, and nobody else does."""

# expect: kind=dropped library=asyncpg_pool operation=acquire certain=yes healed=no count=3
# oracle: 3
# needs: asyncpg
import asyncio
import os

import asyncpg


async def find(pool, number):
    con = await pool.acquire()  # LEAK
    row = await con.fetchrow("SELECT $1::int AS number", number)
    if row["number"] < 3:
        return None
    await pool.release(con)
    return row["number"]


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=6)
    print([await find(pool, number) for number in range(6)])
    await asyncio.sleep(1.2)
    print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
    pool.terminate()


asyncio.run(main())
