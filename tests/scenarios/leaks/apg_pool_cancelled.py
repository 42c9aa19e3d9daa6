"""A client goes away: its task is cancelled while it holds a checkout outside any `finally`."""

# expect: kind=dropped library=asyncpg_pool certain=yes healed=no count=2
# oracle: 2
# needs: asyncpg
import asyncio
import gc
import os

import asyncpg


async def request(pool):
    con = await pool.acquire()  # LEAK
    await con.execute("SELECT 1")
    await asyncio.sleep(30)
    await pool.release(con)


async def main():
    pool = await asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=5)
    tasks = [asyncio.create_task(request(pool)) for _ in range(2)]
    await asyncio.sleep(0.3)
    for task in tasks:
        task.cancel()
    print([type(result).__name__ for result in await asyncio.gather(*tasks, return_exceptions=True)])
    del tasks, task
    gc.collect()
    await asyncio.sleep(1.2)
    print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")
    pool.terminate()


asyncio.run(main())
