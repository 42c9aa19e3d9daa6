"""A one-off script given to `python -c`: its file is <string>, and it has lines all the same."""

# expect: kind=dropped library=psycopg certain=yes count=2
# run: -c
import os

import psycopg


def table_exists(name):
    conn = psycopg.connect(os.environ["ZOO_DSN"])  # LEAK
    return conn.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone()[0]


print(table_exists("pg_class"), table_exists("nowhere"))
