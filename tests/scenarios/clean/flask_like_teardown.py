"""The same framework with the teardown in `finally`; crashed contexts are kept for the error page."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
crashed = []


class Context:
    def __init__(self, path):
        self.path = path
        self.answer = None
        self._db = None
        self.used = []

    @property
    def db(self):
        if self._db is None:
            self._db = pool.getconn()
            self.used.append(self._db)
        return self._db

    def teardown(self):
        if self._db is not None:
            pool.putconn(self._db)
            self._db = None


def view(context):
    number = context.db.execute("SELECT length(%s)", (context.path,)).fetchone()[0]
    return 100 // (number - 4)


def serve(context):
    try:
        context.answer = view(context)
    except ZeroDivisionError as error:
        context.answer = error
        crashed.append(context)
    finally:
        context.teardown()


def main():
    contexts = [Context(path) for path in ("/home", "/abc", "/shop", "/xyz")]
    for context in contexts:
        thread = threading.Thread(target=serve, args=(context,))
        thread.start()
        thread.join()
    print([str(context.answer) for context in contexts])
    time.sleep(1.5)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
