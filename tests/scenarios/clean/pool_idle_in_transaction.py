"""A slow statement inside a transaction, twice: busy is not idle. It may be called overdue, but only as active."""

# expect: nothing
# allow: overdue state=active
# args: --fail --threshold 0.6 --idle-in-transaction 0.6
# oracle: 0
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)


def main():
    with pool.connection() as conn, conn.transaction():
        conn.execute("SELECT pg_sleep(1.2)")
        conn.execute("SELECT pg_sleep(1.0)")
    print("migrated")
    time.sleep(0.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
