"""max_waiting=1: one thread waits for the only connection, the next one is turned away with TooManyRequests."""

# expect: event=exhausted cause=pool held=1 capacity=1
# notes-name-site: yes
# oracle: 1
import os
import threading
import time

from psycopg_pool import ConnectionPool, PoolTimeout, TooManyRequests

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, max_waiting=1, timeout=1.5, open=True)


def borrow():
    return pool.getconn()  # LEAK


def ask(outcomes, index):
    try:
        with pool.connection() as conn:
            outcomes[index] = conn.execute("SELECT 1").fetchone()[0]
    except (PoolTimeout, TooManyRequests) as error:
        outcomes[index] = error


def main():
    held = borrow()
    outcomes = {}
    threads = []
    for index in range(2):
        threads.append(threading.Thread(target=ask, args=(outcomes, index)))
        threads[-1].start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    for _, outcome in sorted(outcomes.items()):
        print(type(outcome).__name__)
        for note in getattr(outcome, "__notes__", ()):
            for line in note.splitlines():
                print("NOTE", line)
    stats = pool.get_stats()
    pool.putconn(held)
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
