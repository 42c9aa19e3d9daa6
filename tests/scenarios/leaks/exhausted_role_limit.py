"""A role with CONNECTION LIMIT 2: the third direct connection is refused, and the error says who has the two."""

# expect: event=exhausted cause=role held=2
# notes-name-site: yes
# oracle: 2
import os

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

DSN = os.environ["ZOO_DSN"]


def open_feed(dsn):
    return psycopg.connect(dsn, autocommit=True)  # LEAK


def monitor(dsn):
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT 'healthy'").fetchone()[0]


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        role = f"small_{admin.info.dbname}"
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 2").format(sql.Identifier(role)))
        dsn = make_conninfo(DSN, user=role)
        feeds = [open_feed(dsn), open_feed(dsn)]
        try:
            print(monitor(dsn))
        except psycopg.OperationalError as error:
            print(type(error).__name__)
            for note in getattr(error, "__notes__", ()):
                for line in note.splitlines():
                    print("NOTE", line)
        count = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (role,)).fetchone()[0]
        for feed in feeds:
            feed.close()
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    print(f"ORACLE leaked={count}")


main()
