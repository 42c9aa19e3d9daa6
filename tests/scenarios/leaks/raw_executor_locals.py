"""The threads of a ThreadPoolExecutor connect once each; the executor is shut down, the connections stay in a list."""

# expect: kind=orphaned library=psycopg certain=yes count=3
# args: --owner-grace 0.5
# oracle: 3
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
    local.conn = psycopg.connect(DSN, autocommit=True, application_name="worker")  # LEAK
    every.append(local.conn)


def job(number):
    barrier.wait(5)
    return local.conn.execute("SELECT %s::int * 2", (number,)).fetchone()[0]


def main():
    with ThreadPoolExecutor(3, initializer=start_worker) as executor:
        print(sorted(executor.map(job, range(6))))
    time.sleep(2.2)
    with psycopg.connect(DSN) as conn:
        still = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'worker' AND datname = current_database()"
        ).fetchone()[0]
    print(f"ORACLE leaked={still}")


main()
