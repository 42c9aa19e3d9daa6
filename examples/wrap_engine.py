"""Watch one SQLAlchemy engine.

`latest_order()` forgets to close its connection. SQLAlchemy repairs that when the connection is garbage-collected,
and says nothing; until then the pool is one connection short. leakguard names the line.

Run it: python examples/wrap_engine.py
"""

import contextlib
import logging
import os
import sys

from sqlalchemy import Engine, create_engine, text

import leakguard
from leakguard.demo.postgres import PostgresServer


def latest_order(engine: Engine) -> int:
    connection = engine.connect()  # LEAK
    return connection.execute(text("SELECT 4711")).scalar_one()


def latest_order_mended(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.execute(text("SELECT 4711")).scalar_one()


def main(dsn: str) -> None:
    # Findings go to the logger "leakguard" unless you say otherwise; here, that is standard output.
    logging.basicConfig(stream=sys.stdout, format="%(message)s")
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))

    with leakguard.watch(engine):
        print("the latest order is", latest_order_mended(engine))
        print("mended code:", len(leakguard.check()), "leaks")

        print("the latest order is", latest_order(engine))
        leaks = leakguard.check()  # judges at once; a service just lets the watchdog do it
        print("leaky code:", len(leaks), "leak, a", leaks[0].kind, "connection")
    engine.dispose()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        main(os.environ.get("LEAKGUARD_EXAMPLE_DSN") or stack.enter_context(PostgresServer()).dsn())
