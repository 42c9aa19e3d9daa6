"""Session tasks put their connection into a registry and end; the registry lives on."""

# expect: kind=orphaned library=psycopg certain=yes count=3
# args: --owner-grace 0.5
# oracle: 3
import asyncio
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
sessions = {}


async def login(user):
    sessions[user] = await psycopg.AsyncConnection.connect(DSN, autocommit=True, application_name="session")  # LEAK
    await sessions[user].execute("SELECT 1")


async def main():
    async with asyncio.TaskGroup() as group:
        for user in ("ann", "bob", "cyd"):
            group.create_task(login(user))
    await asyncio.sleep(2.2)
    async with await psycopg.AsyncConnection.connect(DSN) as conn:
        cur = await conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'session' AND datname = current_database()"
        )
        (still,) = await cur.fetchone()
    for conn in sessions.values():
        await conn.close()
    print(f"ORACLE leaked={still}")


asyncio.run(main())
