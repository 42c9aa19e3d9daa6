"""A `with_db` decorator hands its own connection in, and closes it only when the function succeeds."""

# expect: kind=dropped library=psycopg certain=yes count=4 fingerprints=2
import functools
import gc
import os

import psycopg


class TracedConnection(psycopg.Connection):
    """The team's own connection class."""


def with_db(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        db = TracedConnection.connect(os.environ["ZOO_DSN"])  # LEAK
        result = function(db, *args, **kwargs)
        db.close()
        return result

    return wrapper


@with_db
def ratio(db, a, b):
    return db.execute("SELECT %s::int / %s::int", (a, b)).fetchone()[0]


@with_db
def parse(db, value):
    return db.execute("SELECT %s::int", (value,)).fetchone()[0]


def compute(a, b):
    return ratio(a, b)


def read(value):
    return parse(value)


def main():
    for job in ((compute, 6, 3), (compute, 1, 0), (read, "7"), (read, "x"), (compute, 2, 0), (read, "y")):
        try:
            print(job[0](*job[1:]))
        except psycopg.DataError as error:
            print(type(error).__name__)
    gc.collect()


main()
