"""An atexit handler closes the pool, but two checkouts are still out: pool.close() does not mention them."""

# expect: kind=outstanding library=psycopg_pool certain=no count=2 boundary=exit
# oracle: 2
import atexit
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=3, open=True)
atexit.register(pool.close)
readers = {}


def reader(name):
    if name not in readers:
        readers[name] = pool.getconn()  # LEAK
        readers[name].autocommit = True
    return readers[name]


def main():
    for name in ("users", "orders", "users"):
        print(reader(name).execute("SELECT length(%s)", (name,)).fetchone()[0])
    time.sleep(0.5)  # the pool may still be growing
    stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
