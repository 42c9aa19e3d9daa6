"""After invalidate() the next execute() checks a new connection out, silently; that one is forgotten."""

# expect: kind=dropped library=sqlalchemy certain=yes count=1 healed=yes
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def first_try(conn):
    conn.execute(text("SELECT 'first'"))
    conn.rollback()
    conn.invalidate()


def second_try(conn):
    return conn.execute(text("SELECT 'second'")).scalar_one()  # LEAK


def main():
    conn = engine.connect()
    first_try(conn)
    print(second_try(conn))
    del conn
    gc.collect()
    engine.dispose()


main()
