"""A pool is resized, drained while a checkout is out, shrunk by max_idle, and its connections reach max_lifetime."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 30
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, max_idle=0.6, max_lifetime=1.0, open=True)


def ask(barrier, answers):
    with pool.connection() as conn:
        barrier.wait(5)
        answers.append(conn.execute("SELECT 1").fetchone()[0])


def main():
    pool.wait()
    answers = []
    for _ in range(2):
        barrier = threading.Barrier(3)
        threads = [threading.Thread(target=ask, args=(barrier, answers)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pool.resize(2, 5)
        with pool.connection() as conn:
            if hasattr(pool, "drain"):
                pool.drain()
            time.sleep(1.3)
            answers.append(conn.execute("SELECT 2").fetchone()[0])
        pool.resize(1, 4)
    pool.check()
    time.sleep(0.6)
    print(answers)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
