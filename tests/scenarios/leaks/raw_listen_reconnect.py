"""A LISTEN loop that reconnects after every broken connection; it never closes the old one."""

# expect: kind=dropped library=psycopg certain=yes count=2
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def connect():
    conn = psycopg.connect(DSN, autocommit=True)  # LEAK
    conn.execute("LISTEN jobs")
    return conn


def loop(admin, rounds):
    conn = None
    for number in range(rounds):
        conn = connect()
        admin.execute("SELECT pg_notify('jobs', %s)", (str(number),))
        for notify in conn.notifies(timeout=5, stop_after=1):
            print("job", notify.payload)
    conn.close()


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        loop(admin, 3)


main()
