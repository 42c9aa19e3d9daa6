"""The same with try/finally: the pool has everything back."""

# expect: nothing
# needs: psycopg2-binary
# args: --fail
# oracle: 0
import os
import time

from psycopg2.pool import SimpleConnectionPool

pool = SimpleConnectionPool(1, 5, os.environ["ZOO_DSN"])


def divide(a, b):
    conn = pool.getconn()
    try:
        with conn.cursor() as cursor:
            cursor.execute("SELECT %s / %s", (a, b))
            return cursor.fetchone()[0]
    finally:
        pool.putconn(conn)


def main():
    for a, b in ((6, 3), (1, 0), (8, 2), (2, 0)):
        try:
            print(a, b, divide(a, b))
        except Exception as error:
            print(a, b, type(error).__name__)
    time.sleep(1)
    print(f"ORACLE leaked={len(pool._used)}")


main()
