"""Websocket tasks keep their AsyncConnection in the hub's dict; the tasks end, the hub keeps them."""

# expect: kind=orphaned library=sqlalchemy certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import asyncio
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
hub = {}


async def websocket(name):
    hub[name] = await engine.connect()  # LEAK
    await hub[name].execute(text("SELECT 1"))
    if name == "bob":
        raise ConnectionResetError(name)


async def main():
    tasks = [asyncio.create_task(websocket(name)) for name in ("ann", "bob")]
    print([type(result).__name__ for result in await asyncio.gather(*tasks, return_exceptions=True)])
    await asyncio.sleep(2.2)
    out = engine.pool.checkedout()
    for conn in hub.values():
        await conn.close()
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
