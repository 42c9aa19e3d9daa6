"""AsyncSession over asyncpg, opened in a helper task that dies of an exception outside any `async with`."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2
import asyncio
import gc
import logging
import os
import warnings

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", message="The garbage collector is trying")


class Basket:
    def __init__(self, engine):
        self.session = AsyncSession(engine)

    async def total(self, price):
        result = await self.session.execute(text("SELECT CAST(:p AS int) * 3"), {"p": price})  # LEAK
        total = result.scalar_one()
        if total > 50:
            raise ValueError(f"{total} is too much")
        await self.session.close()
        return total


async def checkout(engine, price):
    return await Basket(engine).total(price)


async def main():
    engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1))
    for price in (5, 20, 7, 30):
        try:
            print(await asyncio.create_task(checkout(engine, price)))
        except ValueError as error:
            print(error)
    await asyncio.sleep(0.1)
    gc.collect()
    await asyncio.sleep(0.1)
    gc.collect()
    await engine.dispose()


asyncio.run(main())
