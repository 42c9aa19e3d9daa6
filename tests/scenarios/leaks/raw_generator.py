"""A row generator closes its connection after the last row; callers that stop early never get there."""

# expect: kind=dropped library=psycopg certain=yes count=2
import itertools
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def numbers(limit):
    conn = psycopg.connect(DSN)  # LEAK
    with conn.cursor(name="numbers") as cur:
        cur.execute("SELECT generate_series(1, %s)", (limit,))
        for (number,) in cur:
            yield number
    conn.close()


def main():
    print("all", sum(numbers(10)))
    print("first", next(numbers(1000)))
    print("three", list(itertools.islice(numbers(1000), 3)))


main()
