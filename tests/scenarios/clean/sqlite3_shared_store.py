"""The same store in use: by cursors, by other threads, with a row here and there."""

# expect: nothing
# args: --owner-grace 0.3 --fail
import sqlite3
import threading
import time

stores = []


def prepare():
    stores.append(sqlite3.connect(":memory:", check_same_thread=False))
    stores[0].execute("CREATE TABLE facts (fact)")


def main():
    worker = threading.Thread(target=prepare)
    worker.start()
    worker.join()
    print(len(stores))
    cursor = stores[0].cursor()
    for number in range(10):
        cursor.execute("INSERT INTO facts VALUES (?)", (number,))
        time.sleep(0.15)
    stores[0].close()


main()
