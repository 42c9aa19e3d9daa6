"""A long statement in a transaction, and a COPY that is fed slowly: something runs all the time."""

# expect: nothing
# args: --fail --idle-in-transaction 0.5
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg


async def lines():
    for number in range(5):
        await asyncio.sleep(0.3)
        yield f"{number}\n".encode()


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=2) as pool:
        async with pool.acquire() as con, con.transaction():
            await con.execute("CREATE TEMPORARY TABLE numbers (number int)")
            await con.execute("SELECT pg_sleep(1.5)")
            print(await con.copy_to_table("numbers", source=lines()))
            print(await con.fetchval("SELECT sum(number) FROM numbers"))
        print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")


asyncio.run(main())
