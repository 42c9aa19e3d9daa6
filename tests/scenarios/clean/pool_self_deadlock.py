"""A pool of one under contention: threads wait for their turn, everybody gets it."""

# expect: nothing
# args: --fail
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, timeout=5, open=True)


def store(done, number):
    with pool.connection() as conn:
        conn.execute("SELECT pg_sleep(0.05)")
        done.append(number)


def main():
    done = []
    threads = [threading.Thread(target=store, args=(done, number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(done))
    time.sleep(0.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
