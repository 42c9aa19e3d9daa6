"""The same generator with a `with`: an abandoned generator is closed, and closes."""

# expect: nothing
# args: --fail
import itertools
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def numbers(limit):
    with psycopg.connect(DSN) as conn, conn.cursor(name="numbers") as cur:
        cur.execute("SELECT generate_series(1, %s)", (limit,))
        for (number,) in cur:
            yield number


def main():
    print("all", sum(numbers(10)))
    print("first", next(numbers(1000)))
    print("three", list(itertools.islice(numbers(1000), 3)))


main()
