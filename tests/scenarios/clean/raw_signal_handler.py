"""The handler only sets a flag; the loop answers with a connection in a `with`. SIGTERM ends it in order."""

# expect: nothing
# args: --fail
import os
import signal
import sys

import psycopg

DSN = os.environ["ZOO_DSN"]
wanted = []


def stop(signum, frame):
    sys.exit(0)


def main():
    signal.signal(signal.SIGUSR1, lambda signum, frame: wanted.append(signum))
    signal.signal(signal.SIGTERM, stop)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGUSR1)
        while wanted:
            wanted.pop()
            with psycopg.connect(DSN, autocommit=True) as conn:
                print(conn.execute("SELECT 'alive'").fetchone()[0])
    with psycopg.connect(DSN) as conn:
        conn.execute("SELECT 1")
        os.kill(os.getpid(), signal.SIGTERM)
        conn.execute("SELECT pg_sleep(1)")
    print("not reached")


main()
