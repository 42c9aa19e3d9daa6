"""A little web framework: the teardown puts the connection back, but only after a response, not after an error."""

# expect: kind=orphaned library=psycopg_pool certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import os
import threading
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
crashed = []  # for the error page: the request contexts


class Context:
    def __init__(self, path):
        self.path = path
        self.answer = None
        self._db = None

    @property
    def db(self):
        if self._db is None:
            self._db = pool.getconn()  # LEAK
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
        return
    context.teardown()


def main():
    contexts = [Context(path) for path in ("/home", "/abc", "/shop", "/xyz")]
    for context in contexts:
        thread = threading.Thread(target=serve, args=(context,))
        thread.start()
        thread.join()
    print([str(context.answer) for context in contexts])
    time.sleep(2.2)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
