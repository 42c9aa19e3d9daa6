"""Futures keep the exceptions of failed jobs, these keep frames, and the frames keep checkouts of ended threads."""

# expect: kind=orphaned library=psycopg_pool certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import os
import time
from concurrent.futures import ThreadPoolExecutor

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def job(number):
    conn = pool.getconn()  # LEAK
    conn.autocommit = True
    result = conn.execute("SELECT 12 / (%s::int %% 2)", (number,)).fetchone()[0]
    pool.putconn(conn)
    return result


def main():
    with ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(job, number) for number in (1, 2, 3, 4)]
    print([future.result() if future.exception() is None else "failed" for future in futures])
    time.sleep(2.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
