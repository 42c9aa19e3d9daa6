"""An exception skips putconn(): the pool keeps the connection among those in use, and nobody else has it."""

# expect: kind=dropped library=psycopg2_pool certain=yes count=2 healed=no
# needs: psycopg2-binary
# oracle: 2
# stderr-names-site: yes
import os
import time

from psycopg2.pool import SimpleConnectionPool

pool = SimpleConnectionPool(1, 5, os.environ["ZOO_DSN"])


def divide(a, b):
    conn = pool.getconn()  # LEAK
    with conn.cursor() as cursor:
        cursor.execute("SELECT %s / %s", (a, b))
        result = cursor.fetchone()[0]
    pool.putconn(conn)
    return result


def main():
    for a, b in ((6, 3), (1, 0), (8, 2), (2, 0)):
        try:
            print(a, b, divide(a, b))
        except Exception as error:
            print(a, b, type(error).__name__)
    time.sleep(1)
    print(f"ORACLE leaked={len(pool._used)}")


main()
