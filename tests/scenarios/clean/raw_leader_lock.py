"""The same leader, held on purpose and said so with leakguard.allow(); a second one ends with its thread's `with`."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 0.5
import os
import threading
import time

import psycopg
from psycopg_pool import ConnectionPool

import leakguard

DSN = os.environ["ZOO_DSN"]
leader = {}
pool = ConnectionPool(DSN, min_size=1, max_size=2, open=True)


def elect():
    conn = psycopg.connect(DSN, autocommit=True)
    leakguard.allow(conn, "the leader's lock lives as long as the process")
    leader["won"] = conn.execute("SELECT pg_try_advisory_lock(4711)").fetchone()[0]
    leader["conn"] = conn


def watch():
    conn = pool.getconn()
    leakguard.allow(conn, "the pinned session of the watcher")
    leader["pinned"] = conn


def main():
    for target in (elect, watch):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    time.sleep(2.2)
    print("leader:", leader["won"])
    pool.putconn(leader.pop("pinned"))
    leader.pop("conn").close()
    pool.close()


main()
