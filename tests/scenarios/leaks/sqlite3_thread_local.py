"""A cache with a connection for each thread: threads end, and nobody closes theirs."""

# expect: kind=dropped|orphaned library=sqlite3 certain=yes count=3
# args: --owner-grace 0.2
import gc
import sqlite3
import threading

local = threading.local()


class Cache:
    def __init__(self):
        self.conn = sqlite3.connect("cache.db")  # LEAK
        self.me = self


def cache():
    if not hasattr(local, "cache"):
        local.cache = Cache()
    return local.cache


def work(results, number):
    for _ in range(3):
        results.append(cache().conn.execute("SELECT ? * 2", (number,)).fetchone()[0])


def main():
    results = []
    for number in range(3):
        worker = threading.Thread(target=work, args=(results, number))
        worker.start()
        worker.join()
    print(results)
    gc.collect()


main()
