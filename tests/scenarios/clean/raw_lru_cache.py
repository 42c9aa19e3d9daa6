"""A cache that is large enough, and closed at exit."""

# expect: nothing
# args: --fail
import atexit
import functools
import os

import psycopg


@functools.cache
def connection_for(shard):
    conn = psycopg.connect(os.environ["ZOO_DSN"], autocommit=True, application_name=f"shard-{shard}")
    atexit.register(conn.close)
    return conn


def main():
    for shard in (1, 2, 1, 3, 2):
        print(connection_for(shard).execute("SELECT current_setting('application_name')").fetchone()[0])
    connection_for.cache_clear()


main()
