"""Watch one psycopg pool.

`reserve()` returns its connection, but not when the stock is too low. Each such customer costs the pool a connection,
for ever: psycopg_pool never says so, and the server does not even show them. In the end somebody innocent gets a
`PoolTimeout`, and leakguard has added a note to it.

Run it: python examples/wrap_pool.py
"""

import contextlib
import os
import sys
import traceback

from psycopg_pool import ConnectionPool, PoolTimeout

import leakguard
from leakguard.demo.postgres import PostgresServer


def reserve(pool: ConnectionPool, quantity: int) -> None:
    connection = pool.getconn()  # LEAK
    if quantity > 5:
        raise ValueError("there are only 5 left")
    connection.commit()
    pool.putconn(connection)


def on_leak(event: object) -> None:
    if isinstance(event, leakguard.Leak) and event.site:
        print(f"-> {event.kind}: {event.site.file}:{event.site.line}: {event.site.code}")


def main(dsn: str) -> None:
    with ConnectionPool(dsn, min_size=1, max_size=2, timeout=1.0, name="stock") as pool:
        # No keyword but on_leak: the default limits are for production. What is certain needs no limit.
        with leakguard.watch(pool, on_leak=on_leak):
            for quantity in (2, 9, 9):
                with contextlib.suppress(ValueError):
                    reserve(pool, quantity)
                    print("reserved", quantity)
            leakguard.check()
            try:
                with pool.connection():
                    print("never reached: the pool is dry")
            except PoolTimeout:
                traceback.print_exc(limit=1, file=sys.stdout)


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        main(os.environ.get("LEAKGUARD_EXAMPLE_DSN") or stack.enter_context(PostgresServer()).dsn())
