"""A producer thread puts open connections into a queue and ends; the consumer was never started."""

# expect: kind=orphaned library=psycopg certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import os
import queue
import threading
import time

import psycopg

DSN = os.environ["ZOO_DSN"]
ready = queue.Queue()


def warm_up(count):
    for _ in range(count):
        ready.put(psycopg.connect(DSN, application_name="warm"))  # LEAK


def main():
    thread = threading.Thread(target=warm_up, args=(2,), name="warm-up")
    thread.start()
    thread.join()
    time.sleep(2.2)
    with psycopg.connect(DSN) as conn:
        still = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'warm' AND datname = current_database()"
        ).fetchone()[0]
    print("in the queue:", ready.qsize())
    print(f"ORACLE leaked={still}")


main()
