"""Sessions in a block, a detached connection that is closed, and one that reconnects."""

# expect: nothing
# needs: psycopg2-binary
# args: --fail
import os

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg2://", 1), pool_pre_ping=True)
make = sessionmaker(engine)


def square(number):
    with make() as session:
        return session.execute(text("SELECT :n * :n"), {"n": number}).scalar_one()


def main():
    print([square(number) for number in (2, 3, 4)])
    with engine.connect() as conn:
        conn.detach()
        print(conn.execute(text("SELECT 1")).scalar_one())
    with engine.connect() as conn:
        conn.invalidate()
        conn.rollback()
        print(conn.execute(text("SELECT 2")).scalar_one())
    engine.dispose()


main()
