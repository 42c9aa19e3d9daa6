"""A pool of one and a nested acquire under `asyncio.timeout()`: the TimeoutError says who holds the connection."""

# expect: kind=nested_acquire library=asyncpg_pool certain=no count=1 site=inner
# expect: event=exhausted cause=pool held=1 capacity=1 site=outer
# notes-name-site: yes
# oracle: 1
# needs: asyncpg
import asyncio
import os
import traceback

import asyncpg


async def audit(pool):
    async with asyncio.timeout(0.8):
        async with pool.acquire() as con:  # LEAK:inner
            await con.execute("SELECT 1")


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=1) as pool:
        async with pool.acquire() as con:  # LEAK:outer
            await con.execute("SELECT 1")
            try:
                await audit(pool)
            except TimeoutError as error:
                print(type(error).__name__)
                for line in "".join(traceback.format_exception(error)).splitlines():
                    if line.startswith(("leakguard", "  1 x held")):
                        print("NOTE", line)
            print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")


asyncio.run(main())
