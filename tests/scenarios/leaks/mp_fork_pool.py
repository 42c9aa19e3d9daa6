"""multiprocessing.Pool (fork): the task function drops a connection in each worker process."""

# expect: kind=dropped library=psycopg certain=yes count=4
# summary: optional
import multiprocessing
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def square(number):
    conn = psycopg.connect(DSN)  # LEAK
    return conn.execute("SELECT %s::int ^ 2", (number,)).fetchone()[0]


def main():
    with multiprocessing.get_context("fork").Pool(2) as workers:
        print(workers.map(square, (1, 2, 3, 4), chunksize=1))
        workers.close()
        workers.join()


if __name__ == "__main__":
    main()
