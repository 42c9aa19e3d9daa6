"""A transaction stays open over a slow upload; the commit and the return come at last."""

# expect: kind=idle_in_transaction library=asyncpg_pool certain=no count=1 state=in_transaction
# expect: event=recovered kind=idle_in_transaction count=1 min-held=1.4
# args: --idle-in-transaction 0.5
# oracle: 1
# needs: asyncpg
import asyncio
import os

import asyncpg

STUCK = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=2, max_size=2) as pool:
        async with pool.acquire() as con, con.transaction():  # LEAK
            print(await con.fetchval("SELECT repeat('ab', 3)"))
            await asyncio.sleep(1.8)
            stuck = await asyncio.create_task(pool.fetchval(STUCK))
        print(f"ORACLE leaked={stuck}")


asyncio.run(main())
