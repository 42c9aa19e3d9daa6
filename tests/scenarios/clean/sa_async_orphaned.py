"""A connection is opened under wait_for (in its own task) and used by the caller; the hub closes what ended."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
import asyncio
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
hub = {}


async def connect():
    return await engine.connect()


async def websocket(name):
    hub[name] = await asyncio.wait_for(asyncio.shield(asyncio.create_task(connect())), 5)
    for _ in range(4):
        await hub[name].execute(text("SELECT 1"))
        await asyncio.sleep(0.4)


async def guarded(name):
    try:
        await websocket(name)
    finally:
        await hub.pop(name).close()


async def main():
    async with asyncio.TaskGroup() as group:
        for name in ("ann", "bob"):
            group.create_task(guarded(name))
    await asyncio.sleep(0.5)
    out = engine.pool.checkedout()
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
