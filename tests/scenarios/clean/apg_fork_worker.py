"""A forked worker has a loop and a pool of its own, and gives everything back."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import multiprocessing
import os

import asyncpg

DSN = os.environ["ZOO_DSN"]


async def use(pool):
    async with pool.acquire() as con:
        await con.execute("SELECT 1")


async def serve(said):
    pool = await asyncpg.create_pool(DSN, min_size=1, max_size=3)
    await use(pool)
    await asyncio.sleep(1.2)
    said.put(pool.get_size() - pool.get_idle_size())
    pool.terminate()


def work(said):
    asyncio.events._set_running_loop(None)  # inherited from the parent, which forks inside its loop
    asyncio.run(serve(said))


async def main():
    async with asyncpg.create_pool(DSN, min_size=1, max_size=2) as pool, pool.acquire() as con:
        context = multiprocessing.get_context("fork")
        said = context.SimpleQueue()
        worker = context.Process(target=work, args=(said,))
        worker.start()
        await asyncio.to_thread(worker.join)
        print(await con.fetchval("SELECT 'the parent works on'"))
        print(f"ORACLE leaked={said.get()}")


asyncio.run(main())
