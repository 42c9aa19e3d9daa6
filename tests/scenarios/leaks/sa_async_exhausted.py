"""An async engine of two is used up by two tasks that wait for a slow peer; the third request times out."""

# expect: event=exhausted cause=pool held=2 capacity=2
# notes-name-site: yes
# oracle: 2
import asyncio
import os

from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine

engine = create_async_engine(
    os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1),
    pool_size=2,
    max_overflow=0,
    pool_timeout=0.7,
)


async def slow_request(done):
    async with engine.connect() as conn:  # LEAK
        await conn.execute(text("SELECT 1"))
        await done.wait()


async def health():
    async with engine.connect() as conn:
        return (await conn.execute(text("SELECT 'ok'"))).scalar_one()


async def main():
    done = asyncio.Event()
    tasks = [asyncio.create_task(slow_request(done)) for _ in range(2)]
    await asyncio.sleep(0.4)
    try:
        print(await health())
    except PoolTimeoutError as error:
        print(type(error).__name__)
        for note in getattr(error, "__notes__", ()):
            for line in note.splitlines():
                print("NOTE", line)
    out = engine.pool.checkedout()
    done.set()
    await asyncio.gather(*tasks)
    await engine.dispose()
    print(f"ORACLE leaked={out}")


asyncio.run(main())
