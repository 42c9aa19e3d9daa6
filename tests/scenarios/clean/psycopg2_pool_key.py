"""A worker with a key of its own asks again and again, keeps nothing in hand meanwhile, and gives back in the end."""

# expect: nothing
# needs: psycopg2-binary
# args: --owner-grace 0.5 --fail
# oracle: 0
import os
import threading
import time

from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(0, 4, os.environ["ZOO_DSN"])


def ask(number):
    conn = pool.getconn(key=threading.current_thread().name)
    with conn.cursor() as cursor:
        cursor.execute("SELECT %s + 1", (number,))
        return cursor.fetchone()[0]


def work(results, number):
    results.append([ask(number), ask(number)])
    time.sleep(1)  # only the pool refers to it now
    results.append(ask(number))
    key = threading.current_thread().name
    pool.putconn(pool.getconn(key), key)


def main():
    results = []
    for number in (1, 2):
        worker = threading.Thread(target=work, args=(results, number), name=f"worker-{number}")
        worker.start()
        worker.join()
    print(results)
    time.sleep(2)
    print(f"ORACLE leaked={len(pool._used)}")


main()
