"""200 tasks over an async engine of three: queues, but no exhaustion and no leak."""

# expect: nothing
# args: --fail --threshold 4 --owner-grace 0.5
# oracle: 0
import asyncio
import os

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(
    os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1),
    pool_size=2,
    max_overflow=1,
    pool_timeout=20,
)


async def request(number):
    async with engine.begin() as conn:
        return (await conn.execute(text("SELECT CAST(:n AS int) * 2"), {"n": number})).scalar_one()


async def main():
    print(sum(await asyncio.gather(*(request(number) for number in range(200)))))
    await asyncio.sleep(0.8)
    out = engine.pool.checkedout()
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
