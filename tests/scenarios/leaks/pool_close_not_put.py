"""Developers of plain drivers write conn.close() in `finally`; for a pool checkout that loses the slot."""

# expect: kind=lost_slot|dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def greet(name):
    conn = pool.getconn()  # LEAK
    try:
        return conn.execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]
    finally:
        conn.close()


def main():
    print(greet("ann"))
    print(greet("bob"))
    time.sleep(0.5)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
