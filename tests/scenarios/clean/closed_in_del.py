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

DSN = os.environ["ZOO_DSN"]
pool = ConnectionPool(DSN, min_size=1, max_size=4, open=True)


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


def main():
    gc.disable()
    for cls in (Raw, Pooled):
        print(cls().ask())
        cyclic = cls()
        cyclic.myself = cyclic
        print(cyclic.ask())
        del cyclic
        gc.collect()
    time.sleep(0.5)
    stats = pool.get_stats()
    leaked = stats["pool_size"] - stats["pool_available"]
    pool.close()
    print(f"ORACLE leaked={leaked}")


main()
