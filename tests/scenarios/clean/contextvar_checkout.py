"""The same ContextVar, reset and returned by a context manager around the request; also in asyncio tasks."""

# expect: nothing
# args: --fail
# oracle: 0
import asyncio
import contextlib
import contextvars
import gc
import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
current = contextvars.ContextVar("current")


@contextlib.contextmanager
def request_scope():
    with pool.connection() as conn:
        token = current.set(conn)
        try:
            yield
        finally:
            current.reset(token)


async def request(name):
    with request_scope():
        await asyncio.sleep(0.05)
        return current.get().execute("SELECT 'hello ' || %s::text", (name,)).fetchone()[0]


async def main():
    print([await asyncio.create_task(request(name)) for name in ("ann", "bob", "cyd")])
    gc.collect()
    await asyncio.sleep(0.3)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


asyncio.run(main())
