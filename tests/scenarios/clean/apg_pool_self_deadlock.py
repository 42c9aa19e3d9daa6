"""A pool of one under contention: tasks wait for their turn, with a timeout that nobody reaches; one gives up."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg


async def audit(pool):
    async with asyncio.timeout(5), pool.acquire(timeout=5) as con:
        await con.execute("SELECT pg_sleep(0.05)")


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=1) as pool:
        tasks = [asyncio.create_task(audit(pool)) for _ in range(8)]
        await asyncio.sleep(0.2)
        tasks[-1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        print([type(result).__name__ for result in results])
        print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")


asyncio.run(main())
