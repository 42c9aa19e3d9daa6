"""Two different pools nested, one pool twice in a row, and two threads at once: none of it can deadlock on itself."""

# expect: nothing
# args: --fail
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]
orders = ConnectionPool(DSN, min_size=1, max_size=3, open=True)
audits = ConnectionPool(DSN, min_size=1, max_size=2, open=True)


def audit(text):
    with audits.connection() as conn:
        conn.execute("SELECT length(%s)", (text,))


def store(order):
    with orders.connection() as conn:
        total = conn.execute("SELECT %s::int * 3", (order,)).fetchone()[0]
        audit(f"order {order}")
    with orders.connection() as conn:
        conn.execute("SELECT 'stored'")
    return total


def main():
    threads = [threading.Thread(target=store, args=(number,)) for number in range(3)]
    with orders.connection() as conn:
        conn.execute("SELECT 1")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(store(1))
    time.sleep(0.3)
    leaked = 0
    for pool in (orders, audits):
        stats = pool.get_stats()
        leaked += stats["pool_size"] - stats["pool_available"]
        pool.close()
    print(f"ORACLE leaked={leaked}")


main()
