"""The team's pool subclass overrides getconn(), with a connection_class of its own and configure=; a caller forgets."""

# expect: kind=dropped library=psycopg_pool certain=yes count=3 healed=no fingerprints=2
# oracle: 3
import os
import time

import psycopg
from psycopg_pool import ConnectionPool


class TeamConnection(psycopg.Connection):
    def value(self, query, *params):
        return self.execute(query, params).fetchone()[0]


class TeamPool(ConnectionPool):
    taken = 0

    def getconn(self, timeout=None):
        self.taken += 1
        return super().getconn(timeout)  # LEAK


def configure(conn):
    conn.autocommit = True


def ask(pool, question):
    return pool.getconn().value("SELECT length(%s)", question)


def tell(pool, words):
    conn = pool.getconn()
    return conn.value("SELECT upper(%s)", words)


def main():
    pool = TeamPool(
        os.environ["ZOO_DSN"], connection_class=TeamConnection, configure=configure, min_size=1, max_size=5, open=True
    )
    print(ask(pool, "why"), ask(pool, "how"), tell(pool, "because"))
    with pool.connection() as conn:
        print(conn.value("SELECT 'returned'"), pool.taken)
    time.sleep(0.5)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
