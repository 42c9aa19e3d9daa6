"""connect() without close(), in a helper whose exception nobody foresaw."""

# expect: kind=dropped library=asyncpg operation=connect certain=yes count=2
# oracle: 2
# needs: asyncpg
import asyncio
import gc
import os
import weakref

import asyncpg

DSN = os.environ["ZOO_DSN"]
opened = []


async def divide(by):
    con = await asyncpg.connect(DSN)  # LEAK
    opened.append(weakref.ref(con))
    result = await con.fetchval("SELECT 12 / $1::int", by)
    await con.close()
    return result


async def main():
    for by in (0, 0, 4):
        try:
            print(await divide(by))
        except asyncpg.DivisionByZeroError as error:
            print(type(error).__name__)
    gc.collect()
    await asyncio.sleep(0.5)
    print(f"ORACLE leaked={sum(ref() is None for ref in opened[:2])}")


asyncio.run(main())
