"""The same module-level checkout; an atexit handler gives it back and closes the pool. A direct one stays open."""

# expect: nothing
# args: --fail
import atexit
import os

import psycopg
from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)
db = pool.getconn()
direct = psycopg.connect(os.environ["ZOO_DSN"])


@atexit.register
def shut_down():
    pool.putconn(db)
    pool.close()
    print("closed")


def main():
    print(db.execute("SELECT 'settings loaded'").fetchone()[0])
    print(direct.execute("SELECT 'direct'").fetchone()[0])


if __name__ == "__main__":
    main()
