"""A LISTEN connection in a daemon thread, idle for long and open at exit: that is its job."""

# expect: nothing
# args: --fail --threshold 0.5 --idle-in-transaction 0.5 --owner-grace 0.5
import os
import queue
import threading
import time

import psycopg

DSN = os.environ["ZOO_DSN"]
inbox = queue.Queue()
ready = threading.Event()


def listener():
    conn = psycopg.connect(DSN, autocommit=True)
    conn.execute("LISTEN jobs")
    ready.set()
    for notify in conn.notifies():
        inbox.put(notify.payload)


def main():
    threading.Thread(target=listener, daemon=True).start()
    ready.wait(10)
    with psycopg.connect(DSN, autocommit=True) as conn:
        for number in (1, 2):
            conn.execute("SELECT pg_notify('jobs', %s)", (str(number),))
            print("job", inbox.get(timeout=5))
            time.sleep(0.9)


main()
