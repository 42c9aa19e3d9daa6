"""Checkouts that end in other ways than by release(): closed, terminated, ended by the server, or with the pool."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg


async def closes(pool):
    await (await pool.acquire()).close()


async def terminates(pool):
    (await pool.acquire()).terminate()


async def is_ended(pool):
    con = await pool.acquire()
    try:
        await con.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError) as error:
        print(type(error).__name__)


async def outlives(pool):
    await pool.acquire()
    pool.terminate()


async def main():
    async with asyncpg.create_pool(
        os.environ["ZOO_DSN"], min_size=1, max_size=3, max_inactive_connection_lifetime=0.2
    ) as pool:
        for end in (closes, terminates, is_ended):
            await end(pool)
        await asyncio.sleep(1.2)
        out = pool.get_size() - pool.get_idle_size()
        await outlives(pool)
    print(f"ORACLE leaked={out}")


asyncio.run(main())
