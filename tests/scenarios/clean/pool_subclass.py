"""The same subclass in proper use, with check=, reset= and a connection that the reset refuses."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 3
# oracle: 0
import logging
import os
import time

import psycopg
from psycopg_pool import ConnectionPool

logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


class TeamConnection(psycopg.Connection):
    def value(self, query, *params):
        return self.execute(query, params).fetchone()[0]


class TeamPool(ConnectionPool):
    def getconn(self, timeout=None):
        return super().getconn(timeout)

    def putconn(self, conn):
        super().putconn(conn)


def reset(conn):
    if conn.info.parameter_status("application_name") == "poisoned":
        raise RuntimeError("cannot be reset")


def main():
    pool = TeamPool(
        os.environ["ZOO_DSN"],
        connection_class=TeamConnection,
        check=ConnectionPool.check_connection,
        reset=reset,
        min_size=1,
        max_size=3,
        open=True,
    )
    for name in ("good", "poisoned", "good"):
        with pool.connection() as conn:
            print(conn.value("SELECT set_config('application_name', %s, false)", name))
    time.sleep(1)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
