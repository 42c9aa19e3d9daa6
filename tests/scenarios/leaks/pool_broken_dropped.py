"""The server ends a session while it is checked out; the error handler forgets putconn(): the slot is lost."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import gc
import os
import time

import psycopg
from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]
pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)


def job(number):
    conn = pool.getconn()  # LEAK
    if number % 2:
        with psycopg.connect(DSN, autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 2000)", (conn.info.backend_pid,))
    value = conn.execute("SELECT %s::int", (number,)).fetchone()[0]
    pool.putconn(conn)
    return value


def main():
    for number in (0, 1, 2, 3):
        try:
            print(job(number))
        except psycopg.OperationalError as error:
            print(type(error).__name__)
    gc.collect()
    time.sleep(0.4)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
