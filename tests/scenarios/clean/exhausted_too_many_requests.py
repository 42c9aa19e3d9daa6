"""max_waiting=1 and two waiters: one is turned away, but only because the work is real; everything is returned."""

# expect: nothing
# args: --fail
# allow: exhausted
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool, TooManyRequests

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, max_waiting=1, timeout=5, open=True)


def ask(outcomes, seconds):
    try:
        with pool.connection() as conn:
            outcomes.append(conn.execute("SELECT pg_sleep(%s)", (seconds,)).statusmessage)
    except TooManyRequests as error:
        outcomes.append(type(error).__name__)


def main():
    pool.wait()
    outcomes = []
    threads = []
    for seconds in (1, 0, 0):
        threads.append(threading.Thread(target=ask, args=(outcomes, seconds)))
        threads[-1].start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    print(outcomes)
    time.sleep(0.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
