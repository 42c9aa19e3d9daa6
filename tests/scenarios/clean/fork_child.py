"""The parent holds a checkout and a direct connection over os.fork(); one child leaves in order, one by os._exit."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 4
# oracle: 0
# oracle-allow: the children inherit what the parent holds
import gc
import os
import sys
import time

import psycopg
from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]


def child(hard):
    with psycopg.connect(DSN) as conn:
        conn.execute("SELECT 1")
    gc.collect()
    time.sleep(1)
    if hard:
        os._exit(0)
    sys.exit(0)


def serve(hard):
    pid = os.fork()
    if pid == 0:
        child(hard)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main():
    pool = ConnectionPool(DSN, min_size=1, max_size=2, open=True)
    direct, pooled = psycopg.connect(DSN), pool.getconn()
    statuses = [serve(hard) for hard in (True, False)]
    print(direct.execute("SELECT 1").fetchone(), pooled.execute("SELECT 2").fetchone())
    direct.close()
    pool.putconn(pooled)
    print("children:", statuses)
    time.sleep(0.3)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
