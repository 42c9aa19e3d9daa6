"""The same handler with a context; checkouts that only a transaction, a cursor, a task or a listener refers to."""

# expect: nothing
# args: --fail
# oracle: 0
# needs: asyncpg
import asyncio
import os

import asyncpg


async def find(pool, number):
    async with pool.acquire() as con:
        row = await con.fetchrow("SELECT $1::int AS number", number)
        if row["number"] < 3:
            return None
        return row["number"]


async def transaction_of(pool, given):
    given.append(await pool.acquire())
    return given[-1].transaction()


async def work_by_transaction(pool):
    given = []
    transaction = await transaction_of(pool, given)
    holder = given.pop()._holder
    async with transaction:
        await asyncio.sleep(1.2)
    await pool.release(holder._proxy)


async def stream(pool):
    async with pool.acquire() as con, con.transaction():
        async for row in con.cursor("SELECT generate_series(1, 200)"):
            yield row[0]


async def subscribe(pool, heard):
    con = await pool.acquire()
    await con.add_listener("news", lambda con, pid, channel, payload: heard.put_nowait((con, payload)))


async def listen(pool):
    heard = asyncio.Queue()
    await subscribe(pool, heard)
    await asyncio.sleep(1.2)
    await asyncio.create_task(pool.execute("NOTIFY news, 'hello'"))
    con, payload = await heard.get()
    for callbacks in list(con._listeners.values()):
        callbacks.clear()
    con._listeners.clear()
    await pool.release(con)
    return payload


async def run(pool):
    con = await pool.acquire()
    try:
        return await con.fetchval("SELECT 'slept' FROM pg_sleep(1.2)")
    finally:
        await pool.release(con)


async def main():
    async with asyncpg.create_pool(os.environ["ZOO_DSN"], min_size=1, max_size=6) as pool:
        print([await find(pool, number) for number in range(6)])
        rows = stream(pool)
        print(await anext(rows))
        print(await asyncio.gather(work_by_transaction(pool), listen(pool), run(pool), pool.fetchval("SELECT 1")))
        await rows.aclose()
        await asyncio.sleep(0.3)
        print(f"ORACLE leaked={pool.get_size() - pool.get_idle_size()}")


asyncio.run(main())
