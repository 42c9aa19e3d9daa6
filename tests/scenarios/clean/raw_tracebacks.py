"""The failures are kept and cleared in the same way, but each connection was closed on its way out."""

# expect: nothing
# args: --fail
import gc
import os

import psycopg

failures = []


def load(table):
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        return conn.execute(f"SELECT * FROM {table}").fetchall()


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
