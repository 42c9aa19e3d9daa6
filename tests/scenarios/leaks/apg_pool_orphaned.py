"""Session tasks put their checkout into a registry and end; the registry lives on."""

# expect: kind=orphaned library=asyncpg_pool certain=yes count=3
# args: --owner-grace 0.5
# oracle: 3
# needs: asyncpg
import asyncio
import os

import asyncpg

sessions = {}


async def login(pool, user):
    sessions[user] = await pool.acquire()  # LEAK
    await sessions[user].execute("SELECT 1")


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=5)
    async with asyncio.TaskGroup() as group:
        for user in ("ann", "bob", "cyd"):
            group.create_task(login(pool, user))
    await asyncio.sleep(2.2)
    print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
    for con in sessions.values():
        await pool.release(con)
    await pool.close()


asyncio.run(main())
