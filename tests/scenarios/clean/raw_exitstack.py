"""The moved ExitStack is closed by the one who got it."""

# expect: nothing
# args: --fail
import gc
import os
from contextlib import ExitStack

import psycopg


def open_both(dsn):
    with ExitStack() as stack:
        source = stack.enter_context(psycopg.connect(dsn, application_name="source"))
        target = stack.enter_context(psycopg.connect(dsn, application_name="target"))
        target.execute("CREATE TABLE copied AS SELECT 1 AS n WHERE false")
        return source, target, stack.pop_all()


def replicate(dsn):
    source, target, stack = open_both(dsn)
    with stack:
        rows = source.execute("SELECT generate_series(1, 4)").fetchall()
        with target.cursor() as cur:
            cur.executemany("INSERT INTO copied VALUES (%s)", rows)
        target.commit()
        return len(rows)


def main():
    print("replicated", replicate(os.environ["ZOO_DSN"]))
    gc.collect()


main()
