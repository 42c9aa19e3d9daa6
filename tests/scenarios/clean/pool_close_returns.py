"""close_returns=True: conn.close() is the way to return, from SQLAlchemy-minded code."""

# expect: nothing
# args: --fail --owner-grace 0.5
# needs: psycopg_pool>=3.3
# oracle: 0
import os
import time
from contextlib import closing

from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]


def greet(pool, name):
    with closing(pool.getconn()) as conn:
        greeting = conn.execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]
    return greeting


def main():
    with ConnectionPool(DSN, min_size=1, max_size=2, close_returns=True, open=True) as pool:
        print([greet(pool, name) for name in ("ann", "bob", "cyd")])
        with pool.getconn() as conn:
            conn.execute("SELECT 1")
        conn.close()
        time.sleep(1.2)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
