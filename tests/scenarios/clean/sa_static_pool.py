"""StaticPool and SingletonThreadPool keep one connection for ever: open at exit, and idle for long."""

# expect: nothing
# args: --fail --threshold 0.5 --owner-grace 0.5
import os
import time

from sqlalchemy import create_engine, text
from sqlalchemy.pool import SingletonThreadPool, StaticPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)
engines = [create_engine(URL, poolclass=poolclass) for poolclass in (StaticPool, SingletonThreadPool)]


def ask(engine, question):
    with engine.connect() as conn:
        return conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()


def main():
    for question in ("why", "how"):
        print([ask(engine, question) for engine in engines])
        time.sleep(1)


main()
