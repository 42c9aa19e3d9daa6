"""SQLAlchemy (NullPool) over a psycopg_pool: two pools, one leak, reported once and by the outer one."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2 healed=yes
import gc
import os
import time

from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool


class ReturningPool(ConnectionPool):
    """Its connections come back by close(), as SQLAlchemy expects."""

    def getconn(self, timeout=None):
        conn = super().getconn(timeout)
        conn.close = lambda: self.give_back(conn)
        return conn

    def give_back(self, conn):
        del conn.close
        self.putconn(conn)


pool = ReturningPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
engine = create_engine("postgresql+psycopg://", poolclass=NullPool, creator=pool.getconn)


def ask(question):
    conn = engine.connect()  # LEAK
    return conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()


def main():
    print(ask("why"), ask("wherefore"))
    gc.collect()
    time.sleep(0.3)
    pool.close()


main()
