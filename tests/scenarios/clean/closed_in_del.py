"""Objects that close or return in __del__, freed by reference counts and by the cyclic collector: late, but closed."""

# expect: nothing
# args: --fail
# oracle: 0
# oracle-allow: a weak reference dies before the __del__ of a cycle runs
import gc
import os
import time

import psycopg
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text

DSN = os.environ["ZOO_DSN"]
pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)
engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://", 1))


class Raw:
    def __init__(self):
        self.conn = psycopg.connect(DSN)

    def ask(self):
        return self.conn.execute("SELECT 'raw'").fetchone()[0]

    def __del__(self):
        self.conn.close()


class Pooled:
    def __init__(self):
        self.conn = pool.getconn()

    def ask(self):
        return self.conn.execute("SELECT 'pooled'").fetchone()[0]

    def __del__(self):
        pool.putconn(self.conn)


class Core:
    def __init__(self):
        self.conn = engine.connect()

    def ask(self):
        return self.conn.execute(text("SELECT 'core'")).scalar_one()

    def __del__(self):
        self.conn.close()


def main():
    gc.disable()
    for cls in (Raw, Pooled, Core):
        print(cls().ask())
        cyclic = cls()
        cyclic.myself = cyclic
        print(cyclic.ask())
        del cyclic
        gc.collect()
    time.sleep(0.5)
    stats = pool.get_stats()
    leaked = stats["pool_size"] - stats["pool_available"] + engine.pool.checkedout()
    pool.close()
    engine.dispose()
    print(f"ORACLE leaked={leaked}")


main()
