"""The workers keep one connection each as long as they live; the parent's own is open meanwhile."""

# expect: nothing
# args: --fail
# summary: optional
import multiprocessing
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
conn = None


def start_worker():
    global conn
    conn = psycopg.connect(DSN, autocommit=True)


def square(number):
    return conn.execute("SELECT %s::int ^ 2", (number,)).fetchone()[0]


def main():
    with psycopg.connect(DSN) as own:
        with multiprocessing.get_context("fork").Pool(2, initializer=start_worker) as workers:
            print(workers.map(square, (1, 2, 3, 4), chunksize=1))
            workers.close()
            workers.join()
        print(own.execute("SELECT 'parent'").fetchone())


if __name__ == "__main__":
    main()
