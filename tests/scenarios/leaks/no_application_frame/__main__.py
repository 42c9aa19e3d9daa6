"""pool.getconn itself is what the task and the executor run: no line of the program is on the stack, so no site."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no site=none
# oracle: 2
import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor

from psycopg_pool import AsyncConnectionPool, ConnectionPool


async def in_a_task():
    async with AsyncConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2) as pool:
        task = asyncio.create_task(pool.getconn())
        await asyncio.sleep(0.5)
        print("task:", task.done())
        del task
        gc.collect()
        await asyncio.sleep(0.3)
        stats = pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]


def in_an_executor():
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True) as pool:
        pool.wait()
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(pool.getconn)
            print("future:", type(future.result()).__name__)
            del future
        gc.collect()
        stats = pool.get_stats()
    return stats["pool_size"] - stats["pool_available"]


def main():
    leaked = asyncio.run(in_a_task()) + in_an_executor()
    print(f"ORACLE leaked={leaked}")


main()
