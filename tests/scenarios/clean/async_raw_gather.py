"""The same fetches, each in an `async with`; one of them raises."""

# expect: nothing
# args: --fail
import asyncio
import gc
import os

import psycopg


async def fetch(city):
    async with await psycopg.AsyncConnection.connect(os.environ["ZOO_DSN"]) as conn:
        cur = await conn.execute("SELECT initcap(%s)", (city,))
        if city == "atlantis":
            raise LookupError(city)
        return (await cur.fetchone())[0]


async def main():
    results = await asyncio.gather(*(fetch(city) for city in ("bern", "atlantis", "rome")), return_exceptions=True)
    print([str(result) for result in results])
    del results
    gc.collect()


asyncio.run(main())
