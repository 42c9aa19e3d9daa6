"""A pre-fork server: each os.fork()ed child handles a request with a connection that it drops, and leaves in order."""

# expect: kind=dropped library=psycopg certain=yes count=2
import os
import sys

import psycopg

DSN = os.environ["ZOO_DSN"]


def handle(number):
    conn = psycopg.connect(DSN)  # LEAK
    return conn.execute("SELECT %s::int * 100", (number,)).fetchone()[0]


def serve(number):
    pid = os.fork()
    if pid == 0:
        answer = handle(number)
        sys.exit(0 if answer == number * 100 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main():
    sys.stdout.flush()
    print("children:", [serve(number) for number in (1, 2)])


main()
