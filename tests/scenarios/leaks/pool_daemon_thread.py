"""A daemon thread polls over a checkout that it never returns; the process ends under it."""

# expect: kind=outstanding library=psycopg_pool certain=no count=1 boundary=exit
# oracle: 1
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)
polled = threading.Event()


def poll():
    conn = pool.getconn()  # LEAK
    conn.autocommit = True
    while True:
        conn.execute("SELECT 1")
        polled.set()
        threading.Event().wait(0.1)


def main():
    threading.Thread(target=poll, daemon=True).start()
    polled.wait(5)
    time.sleep(0.5)  # the pool may still be growing
    stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
