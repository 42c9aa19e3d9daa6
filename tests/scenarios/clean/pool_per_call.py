"""A pool for each call in a `with`; another one that is never opened; and one that is closed by hand."""

# expect: nothing
# args: --fail
import gc
import os

from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]


def answer(sql):
    with ConnectionPool(DSN, min_size=1, max_size=2, open=True) as pool, pool.connection() as conn:
        return conn.execute(sql).fetchone()[0]


def by_hand(sql):
    pool = ConnectionPool(DSN, min_size=1, max_size=2, open=False)
    pool.open(wait=True)
    conn = pool.getconn()
    value = conn.execute(sql).fetchone()[0]
    pool.putconn(conn)
    pool.close()
    return value


def never_opened():
    ConnectionPool(DSN, min_size=1, max_size=2, open=False)


def main():
    print(answer("SELECT 41"), by_hand("SELECT 42"))
    never_opened()
    gc.collect()


main()
