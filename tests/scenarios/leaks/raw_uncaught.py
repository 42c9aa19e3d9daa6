"""A batch job that leaked twice before it dies of an uncaught exception."""

# expect: kind=dropped library=psycopg certain=yes count=2
# exit: 1
# args: --fail
import os

import psycopg


def rows(sql):
    return psycopg.connect(os.environ["ZOO_DSN"]).execute(sql).fetchall()  # LEAK


def main():
    print(rows("SELECT 1"))
    print(rows("SELECT 2"))
    raise LookupError("no more work, and nobody expected that")


main()
