"""The producer thread ends, a consumer thread takes over within the grace, uses and closes."""

# expect: nothing
# args: --fail --owner-grace 2
# oracle: 0
import os
import queue
import threading
import time

import psycopg

DSN = os.environ["ZOO_DSN"]
ready = queue.Queue()


def warm_up(count):
    for _ in range(count):
        ready.put(psycopg.connect(DSN, application_name="warm"))


def consume(count, results):
    time.sleep(1)
    for _ in range(count):
        with ready.get() as conn:
            results.append(conn.execute("SELECT 'used'").fetchone()[0])
            time.sleep(0.7)


def main():
    results = []
    threads = [threading.Thread(target=warm_up, args=(2,)), threading.Thread(target=consume, args=(2, results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(results)
    print(f"ORACLE leaked={ready.qsize()}")


main()
