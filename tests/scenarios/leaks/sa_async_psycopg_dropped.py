"""An AsyncConnection over psycopg is started and forgotten; SQLAlchemy can only warn when it is collected."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2
import asyncio
import gc
import logging
import os
import warnings

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", message="The garbage collector is trying")


async def ask(engine, question):
    conn = await engine.connect()  # LEAK
    return (await conn.execute(text("SELECT length(:q)"), {"q": question})).scalar_one()


async def main():
    engine = create_async_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
    print(await ask(engine, "why"), await ask(engine, "wherefore"))
    gc.collect()
    await asyncio.sleep(0.1)
    await engine.dispose()


asyncio.run(main())
