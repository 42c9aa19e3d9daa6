"""NullConnectionPool, behind PgBouncer: a checkout is forgotten in a comprehension, and its place is gone for good."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# oracle: 2
import os

from psycopg_pool import NullConnectionPool

pool = NullConnectionPool(os.environ["ZOO_DSN"], max_size=4, open=True)


def ask(sql):
    return pool.getconn().execute(sql).fetchone()[0]  # LEAK


def main():
    print([ask(sql) for sql in ("SELECT 1", "SELECT 2")])
    with pool.connection() as conn:
        print(conn.execute("SELECT 3").fetchone()[0])
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size']}")


main()
