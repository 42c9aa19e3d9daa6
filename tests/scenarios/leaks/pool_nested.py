"""An order is stored while its audit entry asks the same pool for a second connection: under load they deadlock."""

# expect: kind=nested_acquire library=psycopg_pool certain=no count=2
# oracle: 2
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=2, max_size=4, open=True)
depths = []


def audit(text):
    with pool.connection() as conn:  # LEAK
        stats = pool.get_stats()
        depths.append(stats["pool_size"] - stats["pool_available"])
        conn.execute("SELECT length(%s)", (text,))


def store(order):
    with pool.connection() as conn:
        total = conn.execute("SELECT %s::int * 3", (order,)).fetchone()[0]
        audit(f"order {order}")
    return total


def main():
    pool.wait()
    print(store(1), store(2))
    time.sleep(0.2)
    pool.close()
    print(f"ORACLE leaked={sum(depth > 1 for depth in depths)}")


main()
