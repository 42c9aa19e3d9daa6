"""Async engines that outlive their loop: NullPool used in two loops, and one disposed of in each loop."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 0.5
# oracle: 0
import asyncio
import gc
import os
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+asyncpg://", 1)
plain = create_async_engine(URL, poolclass=NullPool)
pooled = create_async_engine(URL)


async def ask(question):
    answers = []
    for engine in (plain, pooled):
        async with engine.connect() as conn:
            answers.append((await conn.execute(text("SELECT length(:q)"), {"q": question})).scalar_one())
    await pooled.dispose()
    return answers


def main():
    for question in ("why", "wherefore"):
        print(asyncio.run(ask(question)))
    time.sleep(0.8)
    gc.collect()
    print(f"ORACLE leaked={pooled.pool.checkedout()}")


main()
