"""StaticPool and SingletonThreadPool keep one connection for ever, and still a checkout can be forgotten."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2
import gc
import os

from sqlalchemy import create_engine, text
from sqlalchemy.pool import SingletonThreadPool, StaticPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)


def ask(engine, question):
    conn = engine.connect()  # LEAK
    return conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()


def main():
    for poolclass in (StaticPool, SingletonThreadPool):
        engine = create_engine(URL, poolclass=poolclass)
        print(poolclass.__name__, ask(engine, "why"))
        gc.collect()
        engine.dispose()


main()
