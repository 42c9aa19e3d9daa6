"""The same decorator, with the connection in a `with`."""

# expect: nothing
# args: --fail
import functools
import gc
import os

import psycopg


class TracedConnection(psycopg.Connection):
    """The team's own connection class."""


def with_db(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with TracedConnection.connect(os.environ["ZOO_DSN"]) as db:
            return function(db, *args, **kwargs)

    return wrapper


@with_db
def ratio(db, a, b):
    return db.execute("SELECT %s::int / %s::int", (a, b)).fetchone()[0]


@with_db
def parse(db, value):
    return db.execute("SELECT %s::int", (value,)).fetchone()[0]


def main():
    for job in ((ratio, 6, 3), (ratio, 1, 0), (parse, "7"), (parse, "x")):
        try:
            print(job[0](*job[1:]))
        except psycopg.DataError as error:
            print(type(error).__name__)
    gc.collect()


main()
