"""Failures are kept for the nightly mail; their tracebacks pin the connections until the list is cleared."""

# expect: kind=dropped library=psycopg certain=yes count=2
import gc
import os

import psycopg

failures = []


def load(table):
    conn = psycopg.connect(os.environ["ZOO_DSN"])  # LEAK
    rows = conn.execute(f"SELECT * FROM {table}").fetchall()
    conn.close()
    return rows


def main():
    for table in ("pg_am", "missing_one", "pg_am", "missing_two"):
        try:
            print(table, bool(load(table)))
        except psycopg.errors.UndefinedTable as error:
            failures.append(error)
    print("to mail:", [str(error).splitlines()[0] for error in failures])
    failures.clear()
    gc.collect()


main()
