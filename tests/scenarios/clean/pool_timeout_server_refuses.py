"""PoolTimeout because nobody listens at that port: no connection is held, nothing leaks, nothing is exhausted."""

# expect: nothing
# args: --fail
# allow: exhausted
import logging
import os
import socket

from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


def main():
    with socket.socket() as taken:  # bound, but it does not listen: connecting is refused
        taken.bind(("127.0.0.1", 0))
        dsn = make_conninfo(os.environ["ZOO_DSN"], host="127.0.0.1", port=taken.getsockname()[1])
        pool = ConnectionPool(dsn, min_size=1, max_size=2, timeout=0.8, open=True)
        try:
            with pool.connection() as conn:
                print(conn.execute("SELECT 1").fetchone())
        except PoolTimeout as error:
            print(type(error).__name__)
        pool.close()


main()
