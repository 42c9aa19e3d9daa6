"""The same engine in `async with`, cancelled in the middle of a query, and disposed of."""

# expect: nothing
# args: --fail
# oracle: 0
import asyncio
import gc
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine


async def ask(engine, question):
    async with engine.connect() as conn:
        return (await conn.execute(text("SELECT length(:q)"), {"q": question})).scalar_one()


async def slow(engine):
    async with engine.connect() as conn:
        await conn.execute(text("SELECT pg_sleep(5)"))


async def main():
    engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
    print(await ask(engine, "why"), await ask(engine, "wherefore"))
    try:
        await asyncio.wait_for(slow(engine), 0.4)
    except TimeoutError:
        print("cancelled")
    gc.collect()
    print(await ask(engine, "still there?"))
    out = engine.pool.checkedout()
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
