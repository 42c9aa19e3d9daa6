"""A hand-made context manager without `finally`: when the body raises, putconn() is skipped."""

# expect: kind=dropped library=psycopg_pool certain=yes count=3 healed=no fingerprints=2
# oracle: 3
import os
import time
from contextlib import contextmanager

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5, open=True)


@contextmanager
def db():
    conn = pool.getconn()  # LEAK
    yield conn
    pool.putconn(conn)


def book(seat):
    with db() as conn:
        if conn.execute("SELECT %s::int > 10", (seat,)).fetchone()[0]:
            raise ValueError(f"no seat {seat}")
        return f"seat {seat}"


def cancel(seat):
    with db() as conn:
        conn.execute("SELECT 1")
        raise RuntimeError(f"cannot cancel {seat}")


def main():
    for job, seat in ((book, 1), (book, 11), (cancel, 1), (book, 2), (book, 12)):
        try:
            print(job(seat))
        except (ValueError, RuntimeError) as error:
            print(error)
    time.sleep(0.5)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
