"""lru_cache as a connection cache: what is evicted is never closed, what cache_clear() throws away neither."""

# expect: kind=dropped library=psycopg certain=yes count=4
import functools
import os

import psycopg


@functools.lru_cache(maxsize=2)
def connection_for(shard):
    return psycopg.connect(os.environ["ZOO_DSN"], autocommit=True, application_name=f"shard-{shard}")  # LEAK


def main():
    for shard in (1, 2, 1, 3, 4, 4):
        print(connection_for(shard).execute("SELECT current_setting('application_name')").fetchone()[0])
    print(connection_for.cache_info())
    connection_for.cache_clear()


main()
