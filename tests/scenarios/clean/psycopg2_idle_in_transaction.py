"""A poller that commits before it sleeps, and one whose statement takes long."""

# expect: nothing
# needs: psycopg2-binary
# args: --idle-in-transaction 0.5 --fail
import os
import time
from contextlib import closing

import psycopg2

DSN = os.environ["ZOO_DSN"]


def main():
    with closing(psycopg2.connect(DSN)) as conn:
        with conn, conn.cursor() as cursor:
            cursor.execute("SELECT 7")
            print(cursor.fetchone()[0])
        time.sleep(1.5)
        with conn, conn.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(1.5)")


main()
