"""conn.close() first and putconn() second: the pool throws the closed connection away and refills."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def greet(name):
    conn = pool.getconn()
    try:
        return conn.execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]
    finally:
        conn.close()
        pool.putconn(conn)


def main():
    print(greet("ann"))
    print(greet("bob"))
    time.sleep(1.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
