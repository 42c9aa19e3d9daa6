"""A script helper builds an async engine for each call, in the same loop, and never disposes of it."""

# expect: kind=unclosed_pool certain=yes count=2
# oracle: 2
import asyncio
import gc
import os
import weakref

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

pools = []


async def ask(question):
    url = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_async_engine(url)  # LEAK
    async with engine.connect() as conn:
        answer = (await conn.execute(text("SELECT length(:q)"), {"q": question})).scalar_one()
    pools.append((weakref.ref(engine.pool), engine.pool.checkedin()))
    return answer


async def main():
    print(await ask("why"), await ask("wherefore"))
    gc.collect()
    print(f"ORACLE leaked={sum(idle for ref, idle in pools if ref() is None)}")


asyncio.run(main())
