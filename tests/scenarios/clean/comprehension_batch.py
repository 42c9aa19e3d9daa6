"""Eight threads, eight hundred short checkouts, no comprehension: everything comes back."""

# expect: nothing
# args: --fail --threshold 5 --owner-grace 0.5
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=4, max_size=6, open=True)


def work(counts):
    for _ in range(100):
        with pool.connection() as conn:
            counts.append(conn.execute("SELECT 1").fetchone()[0])


def main():
    counts = []
    threads = [threading.Thread(target=work, args=(counts,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(counts))
    time.sleep(0.8)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
