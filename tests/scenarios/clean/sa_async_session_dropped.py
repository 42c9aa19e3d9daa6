"""`async with AsyncSession`, run_sync, stream() and a failing flush; the engine is disposed of in the same loop."""

# expect: nothing
# args: --fail
# oracle: 0
import asyncio
import gc
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine


async def total(factory, price):
    async with factory() as session:
        result = await session.execute(text("SELECT CAST(:p AS int) * 3"), {"p": price})
        total = result.scalar_one()
        if total > 50:
            raise ValueError(f"{total} is too much")
        return total


async def first(factory):
    async with factory() as session:
        stream = await session.stream(text("SELECT generate_series(5, 500)"))
        async for (number,) in stream:
            return number


async def main():
    engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1))
    factory = async_sessionmaker(engine)
    for price in (5, 20):
        try:
            print(await asyncio.create_task(total(factory, price)))
        except ValueError as error:
            print(error)
    print(await first(factory))
    async with factory() as session:
        print(await session.run_sync(lambda sync: sync.execute(text("SELECT 'sync'")).scalar_one()))
    gc.collect()
    out = engine.pool.checkedout()
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
