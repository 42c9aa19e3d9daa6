"""The same time limit; `async with` closes while the CancelledError passes through."""

# expect: nothing
# args: --fail
import asyncio
import gc
import os

import psycopg


async def slow(seconds):
    async with await psycopg.AsyncConnection.connect(os.environ["ZOO_DSN"], autocommit=True) as conn:
        await conn.execute("SELECT pg_sleep(%s)", (seconds,))
        return "done"


async def main():
    for seconds in (0.01, 3, 4):
        try:
            print(await asyncio.wait_for(slow(seconds), 0.4))
        except TimeoutError:
            print("gave up")
    gc.collect()


asyncio.run(main())
