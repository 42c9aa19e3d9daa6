"""Tasks are cancelled wherever they are: connecting, waiting for their turn, running, or giving back."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg


async def request(pool):
    async with pool.acquire() as con, con.transaction():
        await con.fetchval("SELECT pg_sleep(0.002)")


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=0, max_size=3)
    for turns in range(60):
        if turns % 10 == 0:
            await pool.expire_connections()
        tasks = [asyncio.create_task(request(pool)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await asyncio.sleep(1.2)
    out = pool.get_size() - pool.get_idle_size()
    await asyncio.wait_for(pool.close(), 5)
    print(f"ORACLE leaked={out}")


asyncio.run(main())
