"""The same futures and exceptions; the jobs return in `finally`. One checkout crosses from a job to the main thread."""

# expect: nothing
# args: --fail --owner-grace 1
# oracle: 0
import os
import time
from concurrent.futures import ThreadPoolExecutor

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def job(number):
    conn = pool.getconn()
    try:
        return conn.execute("SELECT 12 / (%s::int %% 2)", (number,)).fetchone()[0]
    finally:
        pool.putconn(conn)


def prepare():
    conn = pool.getconn()
    conn.autocommit = True
    return conn


def main():
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(job, number) for number in (1, 2, 3, 4)]
        conn = executor.submit(prepare).result()
    print([future.result() if future.exception() is None else "failed" for future in futures])
    for _ in range(3):
        conn.execute("SELECT 1")
        time.sleep(0.6)
    pool.putconn(conn)
    time.sleep(0.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
