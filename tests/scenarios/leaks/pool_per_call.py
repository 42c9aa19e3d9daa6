"""A helper builds a ConnectionPool for each call and forgets it: the pool and its idle connections become garbage."""

# expect: kind=unclosed_pool certain=yes count=2
# oracle: 2
import gc
import os
import weakref

from psycopg_pool import ConnectionPool

built = weakref.WeakSet()
opened = []


def answer(sql):
    pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)  # LEAK
    pool.wait()
    built.add(pool)
    with pool.connection() as conn:
        value = conn.execute(sql).fetchone()[0]
    opened.append(pool.closed)
    return value


def main():
    print(answer("SELECT 41"), answer("SELECT 42"))
    gc.collect()
    print(f"ORACLE leaked={opened.count(False) - len(built)}")


main()
