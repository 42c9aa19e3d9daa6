"""A script that closes its pool while it still has the connections in hand has leaked nothing."""

# expect: nothing
# allow: nested_acquire
# needs: psycopg2-binary
# args: --fail
import os

from psycopg2.pool import ThreadedConnectionPool


def fetch(conn, number):
    with conn.cursor() as cursor:
        cursor.execute("SELECT %s * %s", (number, number))
        return cursor.fetchone()[0]


def main():
    pool = ThreadedConnectionPool(1, 4, os.environ["ZOO_DSN"])
    connections = [pool.getconn(), pool.getconn()]
    try:
        print([fetch(conn, number) for conn, number in zip(connections, (2, 3), strict=True)])
    finally:
        pool.closeall()


main()
