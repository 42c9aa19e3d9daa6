"""wait_for cancels a slow query; the cancelled coroutine had no `finally` for its connection."""

# expect: kind=dropped library=psycopg certain=yes count=2
import asyncio
import gc
import os

import psycopg


async def slow(seconds):
    conn = await psycopg.AsyncConnection.connect(os.environ["ZOO_DSN"], autocommit=True)  # LEAK
    await conn.execute("SELECT pg_sleep(%s)", (seconds,))
    await conn.close()
    return "done"


async def main():
    for seconds in (0.01, 3, 4):
        try:
            print(await asyncio.wait_for(slow(seconds), 0.4))
        except TimeoutError:
            print("gave up")
    gc.collect()
    await asyncio.sleep(0)


asyncio.run(main())
