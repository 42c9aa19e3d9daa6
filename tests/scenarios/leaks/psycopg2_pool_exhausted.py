"""psycopg2's pool does not wait: the third getconn() of a pool of two fails at once, and says who has the two."""

# expect: event=exhausted cause=pool held=2 capacity=2
# expect: kind=overdue library=psycopg2_pool count=2
# needs: psycopg2-binary
# args: --threshold 0.3
# notes-name-site: yes
import os
import time

from psycopg2.pool import PoolError, ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 2, os.environ["ZOO_DSN"])
cache = {}


def report(name):
    cache[name] = conn = pool.getconn()  # LEAK
    with conn.cursor() as cursor:
        cursor.execute("SELECT upper(%s)", (name,))
        return cursor.fetchone()[0]


def main():
    for name in ("sales", "stock", "staff"):
        try:
            print(report(name))
        except PoolError as error:
            print(type(error).__name__, error)
            for note in getattr(error, "__notes__", ()):
                for line in note.splitlines():
                    print("NOTE", line)
    time.sleep(1)


main()
