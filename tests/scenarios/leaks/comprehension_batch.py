"""A warm-up takes a batch of checkouts in comprehensions, and the list is thrown away: one line, many losses."""

# expect: kind=dropped library=psycopg_pool certain=yes count=12 healed=no folded=yes
# oracle: 12
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=4, max_size=12, open=True)


def warm_up(count):
    conns = [pool.getconn() for _ in range(count)]  # LEAK
    return sum(conn.execute("SELECT 1").fetchone()[0] for conn in conns)


def main():
    print(warm_up(4), warm_up(4), warm_up(4))
    time.sleep(0.5)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
