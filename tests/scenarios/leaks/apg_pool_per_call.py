"""A helper makes a pool for each loop and never closes it: pool and connections become garbage with the loop."""

# expect: kind=unclosed_pool certain=yes count=2
# oracle: 2
# needs: asyncpg
import asyncio
import gc
import os

import asyncpg

opened = []


async def answer(sql):
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=2)  # LEAK
    value = await pool.fetchval(sql)
    opened.append(pool.get_size())
    return value


def main():
    print(asyncio.run(answer("SELECT 41")), asyncio.run(answer("SELECT 42")))
    gc.collect()
    print(f"ORACLE leaked={sum(opened)}")


main()
