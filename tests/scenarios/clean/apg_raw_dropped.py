"""The same helper with `finally`; connections that are terminated, ended by the server, or listen for long."""

# expect: nothing
# args: --fail --threshold 0.5
# oracle: 0
# needs: asyncpg
import asyncio
import gc
import os
import weakref

import asyncpg

DSN = os.environ["ZOO_DSN"]
opened = []


async def divide(by):
    con = await asyncpg.connect(DSN)
    opened.append(weakref.ref(con))
    try:
        return await con.fetchval("SELECT 12 / $1::int", by)
    finally:
        await con.close()


async def listen():
    con = await asyncpg.connect(DSN)
    await con.add_listener("news", print)
    await asyncio.sleep(1.5)
    await con.close()


async def terminated():
    con = await asyncpg.connect(DSN)
    con.terminate()


async def ended():
    con = await asyncpg.connect(DSN)
    try:
        await con.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError) as error:
        print(type(error).__name__)


async def main():
    for by in (0, 0, 4):
        try:
            print(await divide(by))
        except asyncpg.DivisionByZeroError as error:
            print(type(error).__name__)
    await terminated()
    await ended()
    await listen()
    gc.collect()
    await asyncio.sleep(0.3)
    print(f"ORACLE leaked={sum(ref() is not None for ref in opened)}")


asyncio.run(main())
