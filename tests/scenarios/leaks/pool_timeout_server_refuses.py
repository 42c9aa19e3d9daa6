"""PoolTimeout although the pool has room: the server refuses, because a direct connection uses the role up."""

# expect: event=exhausted cause=role held=1
# notes-name-site: yes
# oracle: 1
import logging
import os

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg_pool import ConnectionPool, PoolTimeout

DSN = os.environ["ZOO_DSN"]
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        role = f"single_{admin.info.dbname}"
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 1").format(sql.Identifier(role)))
        dsn = make_conninfo(DSN, user=role)
        feed = psycopg.connect(dsn, autocommit=True)  # LEAK
        pool = ConnectionPool(dsn, min_size=1, max_size=4, timeout=1.5, open=True)
        try:
            with pool.connection() as conn:
                print(conn.execute("SELECT 1").fetchone())
        except PoolTimeout as error:
            print(type(error).__name__)
            for note in getattr(error, "__notes__", ()):
                for line in note.splitlines():
                    print("NOTE", line)
        pool.close()
        count = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (role,)).fetchone()[0]
        feed.close()
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    print(f"ORACLE leaked={count}")


main()
