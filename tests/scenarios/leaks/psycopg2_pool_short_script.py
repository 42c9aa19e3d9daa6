"""A script that is over in no time closes its pool in the end: what was forgotten before is a leak all the same."""

# expect: kind=dropped library=psycopg2_pool certain=yes count=2
# needs: psycopg2-binary
import os

from psycopg2.pool import ThreadedConnectionPool


def fetch(pool, number):
    cursor = pool.getconn().cursor()  # LEAK
    cursor.execute("SELECT %s * %s", (number, number))
    return cursor.fetchone()[0]


def main():
    pool = ThreadedConnectionPool(1, 4, os.environ["ZOO_DSN"])
    try:
        print([fetch(pool, number) for number in (2, 3)])
    finally:
        pool.closeall()


main()
