"""A poller reads and never commits: its transaction stays open while it sleeps."""

# expect: kind=idle_in_transaction library=psycopg2 certain=no
# needs: psycopg2-binary
# args: --idle-in-transaction 0.5
import os
import time
from contextlib import closing

import psycopg2

DSN = os.environ["ZOO_DSN"]


def main():
    with closing(psycopg2.connect(DSN)) as conn:  # LEAK
        with conn.cursor() as cursor:
            cursor.execute("SELECT 7")
            print(cursor.fetchone()[0])
        time.sleep(1.5)


main()
