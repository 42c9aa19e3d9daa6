"""A worker thread dies of an uncaught exception with its checkout in a local variable."""

# expect: kind=dropped|orphaned library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import gc
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)


def deliver(parcel):
    conn = pool.getconn()  # LEAK
    weight = conn.execute("SELECT length(%s)", (parcel,)).fetchone()[0]
    if weight > 4:
        raise OverflowError(f"{parcel} is too heavy")
    pool.putconn(conn)


def main():
    for parcel in ("book", "piano", "pen", "anvil"):
        thread = threading.Thread(target=deliver, args=(parcel,), name=parcel)
        thread.start()
        thread.join()
        del thread
    gc.collect()
    time.sleep(0.4)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
