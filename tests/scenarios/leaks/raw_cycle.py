"""A repository and its unit of work refer to each other: only the cyclic collector ends the connection."""

# expect: kind=dropped library=psycopg certain=yes count=3
import gc
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


class UnitOfWork:
    def __init__(self):
        self.conn = psycopg.connect(DSN)  # LEAK
        self.orders = Orders(self)


class Orders:
    def __init__(self, uow):
        self.uow = uow

    def count(self):
        return self.uow.conn.execute("SELECT count(*) FROM pg_database").fetchone()[0] > 0


def main():
    for day in ("mon", "tue", "wed"):
        print(day, UnitOfWork().orders.count())
    gc.collect()


main()
