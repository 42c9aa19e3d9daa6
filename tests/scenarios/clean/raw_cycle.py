"""The same cycle, but the unit of work is closed before it becomes garbage."""

# expect: nothing
# args: --fail
import gc
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


class UnitOfWork:
    def __init__(self):
        self.conn = psycopg.connect(DSN)
        self.orders = Orders(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.conn.close()


class Orders:
    def __init__(self, uow):
        self.uow = uow

    def count(self):
        return self.uow.conn.execute("SELECT count(*) FROM pg_database").fetchone()[0] > 0


def main():
    for day in ("mon", "tue", "wed"):
        with UnitOfWork() as uow:
            print(day, uow.orders.count())
    del uow
    gc.collect()


main()
