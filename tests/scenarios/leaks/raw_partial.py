"""Jobs are partials and closures that carry a connection each; the job list is emptied, nobody closed."""

# expect: kind=dropped library=psycopg certain=yes count=3
import functools
import os

import psycopg

DSN = os.environ["ZOO_DSN"]
jobs = []


def run_sql(conn, sql):
    return conn.execute(sql).fetchone()[0]


def schedule(sql):
    jobs.append(functools.partial(run_sql, psycopg.connect(DSN, autocommit=True), sql))  # LEAK


def schedule_later(a, b):
    conn = psycopg.connect(DSN, autocommit=True)  # LEAK
    jobs.append(lambda: conn.execute("SELECT %s::int + %s::int", (a, b)).fetchone()[0])


def main():
    schedule("SELECT 'vacuum'")
    schedule("SELECT 'analyze'")
    schedule_later(20, 22)
    for job in jobs:
        print(job())
    jobs.clear()
    del job


main()
