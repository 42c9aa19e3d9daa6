"""Asked by key, a pool gives the same connection again; a worker that ends without putconn() leaves it behind."""

# expect: kind=orphaned library=psycopg2_pool certain=yes count=2
# needs: psycopg2-binary
# args: --owner-grace 0.5
# oracle: 2
import os
import threading
import time

from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(0, 4, os.environ["ZOO_DSN"])


def ask(number):
    conn = pool.getconn(key=threading.current_thread().name)  # LEAK
    with conn.cursor() as cursor:
        cursor.execute("SELECT %s + 1", (number,))
        return cursor.fetchone()[0]


def work(results, number):
    results.append([ask(number), ask(number), ask(number)])


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
