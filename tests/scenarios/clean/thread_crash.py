"""Worker threads that die of an uncaught exception, inside `with`: noisy, but not leaky."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import os
import threading
import time

import psycopg
from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]
pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)


def deliver(parcel):
    with pool.connection() as conn, psycopg.connect(DSN) as direct:
        weight = conn.execute("SELECT length(%s)", (parcel,)).fetchone()[0]
        direct.execute("SELECT 1")
        if weight > 4:
            raise OverflowError(f"{parcel} is too heavy")


def main():
    for parcel in ("book", "piano", "pen", "anvil"):
        thread = threading.Thread(target=deliver, args=(parcel,), name=parcel)
        thread.start()
        thread.join()
    time.sleep(1.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
