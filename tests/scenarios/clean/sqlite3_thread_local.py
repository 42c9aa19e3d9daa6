"""A thread that closes what it had for itself; and the main thread's, which lasts as long as the program."""

# expect: nothing
# args: --owner-grace 0.2 --fail
import gc
import sqlite3
import threading
import time

local = threading.local()


class Cache:
    def __init__(self):
        self.conn = sqlite3.connect("cache.db")
        self.me = self


def cache():
    if not hasattr(local, "cache"):
        local.cache = Cache()
    return local.cache


def work(results, number):
    for _ in range(3):
        results.append(cache().conn.execute("SELECT ? * 2", (number,)).fetchone()[0])


def work_and_close(results, number):
    try:
        work(results, number)
    finally:
        cache().conn.close()


def main():
    results = []
    for number in range(3):
        worker = threading.Thread(target=work_and_close, args=(results, number))
        worker.start()
        worker.join()
    work(results, 3)
    print(results)
    gc.collect()
    time.sleep(1)


main()
