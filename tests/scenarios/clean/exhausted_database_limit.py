"""An engine that is refused once, because another program fills the database, and works afterwards."""

# expect: nothing
# args: --fail
# allow: exhausted
# oracle: 0
import os

import psycopg
from psycopg import sql
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

DSN = os.environ["ZOO_DSN"]


def ask(engine):
    try:
        with engine.connect() as conn:
            return conn.execute(text("SELECT 'fine'")).scalar_one()
    except OperationalError:
        return "refused"


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        name = admin.info.dbname
        role = f"guest_{name}"
        limit = sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}")
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        engine = create_engine(make_url(DSN).set(drivername="postgresql+psycopg", username=role))
        admin.execute(limit.format(sql.Identifier(name), 0))
        print(ask(engine))
        admin.execute(limit.format(sql.Identifier(name), -1))
        print(ask(engine))
        out = engine.pool.checkedout()
        engine.dispose()
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    print(f"ORACLE leaked={out}")


main()
