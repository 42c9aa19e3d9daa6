"""The polling daemon takes a checkout for each round and is told to stop before the process ends."""

# expect: nothing
# args: --fail --threshold 0.5 --owner-grace 0.5
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)
polled, stop = threading.Event(), threading.Event()


def poll():
    while not stop.wait(0.1):
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        polled.set()


def main():
    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    polled.wait(5)
    time.sleep(1)
    stop.set()
    thread.join()
    time.sleep(0.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
