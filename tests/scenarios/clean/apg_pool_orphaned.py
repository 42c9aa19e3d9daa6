"""Tasks log in and end; the main task uses their checkouts, one of them in a single long statement."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg

sessions = {}


async def login(pool, user):
    sessions[user] = await pool.acquire()


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=5)
    async with asyncio.TaskGroup() as group:
        for user in ("ann", "bob"):
            group.create_task(login(pool, user))
    (await asyncio.wait_for(pool.acquire(), 5)).terminate()
    await sessions["bob"].execute("SELECT 1")
    await sessions["ann"].execute("SELECT pg_sleep(2)")
    for con in sessions.values():
        await pool.release(con)
    print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
    await pool.close()


asyncio.run(main())
