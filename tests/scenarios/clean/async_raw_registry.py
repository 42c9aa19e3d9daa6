"""Tasks log in and end; the main task takes their connections over at once, uses them for long, and closes them."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
import asyncio
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
sessions = {}


async def login(user):
    sessions[user] = await psycopg.AsyncConnection.connect(DSN, autocommit=True, application_name="session")


async def main():
    async with asyncio.TaskGroup() as group:
        for user in ("ann", "bob", "cyd"):
            group.create_task(login(user))
    for _ in range(5):
        for conn in sessions.values():
            await conn.execute("SELECT 1")
        await asyncio.sleep(0.4)
    await asyncio.sleep(1.5)  # longer than the grace, but the main task is the owner now
    for conn in sessions.values():
        await conn.close()
    async with await psycopg.AsyncConnection.connect(DSN) as conn:
        cur = await conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'session'"
            " AND datname = current_database() AND state = 'active'"
        )
        (still,) = await cur.fetchone()
    print(f"ORACLE leaked={still}")


asyncio.run(main())
