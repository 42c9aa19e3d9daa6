"""AssertionPool, SingletonThreadPool and StaticPool, each in the way it is meant: reuse by one user at a time."""

# expect: nothing
# args: --fail --threshold 0.6 --owner-grace 0.5
# allow: nested_acquire
import os
import threading
import time

from sqlalchemy import create_engine, text
from sqlalchemy.pool import AssertionPool, SingletonThreadPool, StaticPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)


def ask(engine, answers, question):
    with engine.connect() as conn:
        answers.append(conn.execute(text("SELECT :q || '?'"), {"q": question}).scalar_one())


def main():
    for poolclass in (AssertionPool, SingletonThreadPool, StaticPool):
        engine = create_engine(URL, poolclass=poolclass)
        answers = []
        ask(engine, answers, "why")
        thread = threading.Thread(target=ask, args=(engine, answers, "who"))
        thread.start()
        thread.join()
        if poolclass is not AssertionPool:
            with engine.connect() as conn:
                ask(engine, answers, "nested")
                conn.execute(text("SELECT 1"))
        print(poolclass.__name__, answers)
        time.sleep(0.8)
        engine.dispose()


main()
