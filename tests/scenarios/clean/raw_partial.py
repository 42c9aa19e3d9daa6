"""The jobs carry a recipe, not a connection."""

# expect: nothing
# args: --fail
import functools
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
jobs = []


def run_sql(connect, sql):
    with connect() as conn:
        return conn.execute(sql).fetchone()[0]


def schedule(sql):
    jobs.append(functools.partial(run_sql, functools.partial(psycopg.connect, DSN, autocommit=True), sql))


def main():
    schedule("SELECT 'vacuum'")
    schedule("SELECT 'analyze'")
    for job in jobs:
        print(job())
    jobs.clear()


main()
