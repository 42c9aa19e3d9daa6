"""A store that a worker thread has opened for everybody stays open when the worker is gone, and nobody uses it."""

# expect: kind=orphaned library=sqlite3 certain=yes
# args: --owner-grace 0.3
import sqlite3
import threading
import time

stores = []


def prepare():
    stores.append(sqlite3.connect(":memory:", check_same_thread=False))  # LEAK
    stores[0].execute("CREATE TABLE facts (fact)")


def main():
    worker = threading.Thread(target=prepare)
    worker.start()
    worker.join()
    print(len(stores))
    time.sleep(1.5)


main()
