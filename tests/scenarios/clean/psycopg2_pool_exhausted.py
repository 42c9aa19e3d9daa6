"""Reports that give their connection back leave room for the next; a closed pool is not an exhausted one."""

# expect: nothing
# needs: psycopg2-binary
# args: --threshold 0.3 --fail
import os
import time

from psycopg2.pool import PoolError, ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 2, os.environ["ZOO_DSN"])


def report(name):
    conn = pool.getconn()
    try:
        with conn.cursor() as cursor:
            cursor.execute("SELECT upper(%s)", (name,))
            return cursor.fetchone()[0]
    finally:
        pool.putconn(conn)


def main():
    for name in ("sales", "stock", "staff"):
        print(report(name))
    pool.closeall()
    try:
        report("late")
    except PoolError as error:
        print(type(error).__name__, error, getattr(error, "__notes__", ()))
    time.sleep(1)


main()
