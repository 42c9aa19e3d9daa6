"""sys.exit in the middle of a `with pool.connection()`: the block returns the checkout on its way out."""

# expect: nothing
# args: --fail
# exit: 0
import atexit
import os
import sys

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=3, open=True)
atexit.register(pool.close)


def main():
    with pool.connection() as conn:
        print(conn.execute("SELECT 'bye'").fetchone()[0])
        sys.exit(0)


main()
