"""A MemoryHandler buffers log records with exc_info; their frames name connections that were returned."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import gc
import logging
import logging.handlers
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
buffer = logging.handlers.MemoryHandler(capacity=100, flushLevel=logging.CRITICAL, target=logging.NullHandler())
log = logging.getLogger("shop")
log.addHandler(buffer)
log.propagate = False


def sell(quantity):
    conn = pool.getconn()
    try:
        left = conn.execute("SELECT 5 - %s::int", (quantity,)).fetchone()[0]
        assert left >= 0, "sold out"
        return left
    finally:
        pool.putconn(conn)


def main():
    for quantity in (1, 7, 2, 9):
        try:
            print("left", sell(quantity))
        except AssertionError:
            log.exception("cannot sell %s", quantity)
    print("buffered:", len(buffer.buffer))
    buffer.flush()
    gc.collect()
    time.sleep(0.4)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
