"""The same small role, with one connection after the other; and a connect that fails for another reason."""

# expect: nothing
# args: --fail
import os

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

DSN = os.environ["ZOO_DSN"]


def monitor(dsn):
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT 'healthy'").fetchone()[0]


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        role = f"tiny_{admin.info.dbname}"
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 2").format(sql.Identifier(role)))
        dsn = make_conninfo(DSN, user=role)
        for _ in range(2):
            print(monitor(dsn))
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
        try:
            monitor(dsn)
        except psycopg.OperationalError as error:
            print(type(error).__name__)


main()
