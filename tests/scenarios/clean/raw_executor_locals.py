"""One direct connection a thread, the threads alive all the time: that is how thread-local caches work."""

# expect: nothing
# args: --fail --threshold 0.5 --owner-grace 0.5 --idle-in-transaction 0.5
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg

DSN = os.environ["ZOO_DSN"]
local = threading.local()
every = []
barrier = threading.Barrier(3)


def start_worker():
    local.conn = psycopg.connect(DSN, autocommit=True)
    every.append(local.conn)


def job(number):
    barrier.wait(5)
    return local.conn.execute("SELECT %s::int * 2", (number,)).fetchone()[0]


def main():
    executor = ThreadPoolExecutor(3, initializer=start_worker)
    print(sorted(executor.map(job, range(6))))
    time.sleep(1.8)
    print(sorted(executor.map(job, range(6))))
    for conn in every:
        conn.close()
    executor.shutdown()


main()
