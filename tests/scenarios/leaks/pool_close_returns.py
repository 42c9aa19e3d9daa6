"""close_returns=True is silently ignored by NullConnectionPool: there, conn.close() loses the place."""

# expect: kind=lost_slot|dropped library=psycopg_pool certain=yes count=2
# needs: psycopg_pool>=3.3
# oracle: 2
import os
import time
from contextlib import closing

from psycopg_pool import NullConnectionPool

DSN = os.environ["ZOO_DSN"]


def greet(pool, name):
    with closing(pool.getconn()) as conn:  # LEAK
        return conn.execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]


def main():
    with NullConnectionPool(DSN, max_size=4, close_returns=True, open=True) as pool:
        print([greet(pool, name) for name in ("ann", "bob")])
        time.sleep(0.3)
        stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size']}")


main()
