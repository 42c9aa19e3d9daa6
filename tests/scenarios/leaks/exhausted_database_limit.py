"""The database has a CONNECTION LIMIT; a SQLAlchemy engine's checkouts fill it, and its next connect is refused."""

# expect: event=exhausted cause=database held=2
# allow: nested_acquire
# notes-name-site: yes
# oracle: 2
import os
import time

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError

DSN = os.environ["ZOO_DSN"]


def prepare():
    """A role that is no superuser, and a database that takes two of its connections."""
    with psycopg.connect(DSN, autocommit=True) as admin:
        name = admin.info.dbname
        role = f"app_{name}"
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
        admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 2").format(sql.Identifier(name)))
    return role


def wait_until_alone(dsn):
    """A closed connection counts until its backend has really gone."""
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as admin:
        name = make_url(dsn).database
        while admin.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (name,)).fetchone()[0]:
            time.sleep(0.02)


def main():
    role = prepare()
    wait_until_alone(DSN)
    engine = create_engine(make_url(DSN).set(drivername="postgresql+psycopg", username=role), pool_size=5)
    readers = [engine.connect() for _ in range(2)]  # LEAK
    try:
        with engine.connect() as conn:
            print(conn.execute(text("SELECT 1")).scalar_one())
    except OperationalError as error:
        print(type(error).__name__)
        for note in getattr(error, "__notes__", ()):
            for line in note.splitlines():
                print("NOTE", line)
    out = engine.pool.checkedout()
    for reader in readers:
        reader.close()
    engine.dispose()
    with psycopg.connect(DSN, autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    print(f"ORACLE leaked={out}")


main()
