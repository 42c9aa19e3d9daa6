"""The same context manager with try/finally."""

# expect: nothing
# args: --fail
# oracle: 0
import os
import time
from contextlib import contextmanager

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5, open=True)


@contextmanager
def db():
    conn = pool.getconn()
    try:
        yield conn
    finally:
        pool.putconn(conn)


def book(seat):
    with db() as conn:
        if conn.execute("SELECT %s::int > 10", (seat,)).fetchone()[0]:
            raise ValueError(f"no seat {seat}")
        return f"seat {seat}"


def main():
    for seat in (1, 11, 2, 12):
        try:
            print(book(seat))
        except ValueError as error:
            print(error)
    time.sleep(0.3)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
