"""Three fetches under asyncio.gather, each with a connection of its own that nobody closes."""

# expect: kind=dropped library=psycopg certain=yes count=3
import asyncio
import gc
import os

import psycopg


async def fetch(city):
    conn = await psycopg.AsyncConnection.connect(os.environ["ZOO_DSN"])  # LEAK
    cur = await conn.execute("SELECT initcap(%s)", (city,))
    return (await cur.fetchone())[0]


async def main():
    print(await asyncio.gather(*(fetch(city) for city in ("bern", "oslo", "rome"))))
    gc.collect()


asyncio.run(main())
