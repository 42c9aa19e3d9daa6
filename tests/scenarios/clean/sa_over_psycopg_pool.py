"""The same two pools stacked, used in `with`; held for longer than no threshold, nested in nothing."""

# expect: nothing
# args: --fail --owner-grace 0.5
# needs: psycopg_pool>=3.3
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, close_returns=True, open=True)
engine = create_engine("postgresql+psycopg://", poolclass=NullPool, creator=pool.getconn)


def ask(answers, question):
    with engine.begin() as conn:
        answers.append(conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one())


def main():
    answers = []
    threads = [threading.Thread(target=ask, args=(answers, "x" * number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(answers))
    time.sleep(1.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
