"""The same one-off script, closing."""

# expect: nothing
# args: --fail
# run: -c
import os

import psycopg


def table_exists(name):
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        return conn.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()[0]


print(table_exists("pg_class"), table_exists("nowhere"))
