"""SIGUSR1 writes a status line from the database, each time over a new connection that nobody closes."""

# expect: kind=dropped library=psycopg certain=yes count=2
import os
import signal
import time

import psycopg

DSN = os.environ["ZOO_DSN"]
lines = []


def status(signum, frame):
    conn = psycopg.connect(DSN, autocommit=True)  # LEAK
    lines.append(conn.execute("SELECT 'alive'").fetchone()[0])


def main():
    signal.signal(signal.SIGUSR1, status)
    for expected in (1, 2):
        os.kill(os.getpid(), signal.SIGUSR1)
        while len(lines) < expected:
            time.sleep(0.01)
    print(lines)


main()
