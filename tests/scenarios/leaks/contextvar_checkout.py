"""A ContextVar holds the request's checkout; each request runs in its own context, which dies with it."""

# expect: kind=dropped library=psycopg_pool certain=yes count=3 healed=no
# oracle: 3
import contextvars
import gc
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
current = contextvars.ContextVar("current")


def db():
    try:
        return current.get()
    except LookupError:
        conn = pool.getconn()  # LEAK
        current.set(conn)
        return conn


def request(name):
    hello = db().execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]
    return hello + db().execute("SELECT '!'").fetchone()[0]


def main():
    for name in ("ann", "bob", "cyd"):
        print(contextvars.copy_context().run(request, name))
    gc.collect()
    time.sleep(0.4)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
