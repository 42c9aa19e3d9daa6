"""AssertionPool in a test bench: a helper forgets its one connection, twice."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2 healed=yes
import gc
import os

from sqlalchemy import create_engine, text
from sqlalchemy.pool import AssertionPool

engine = create_engine(
    os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1), poolclass=AssertionPool
)


def ask(question):
    conn = engine.connect()  # LEAK
    return conn.execute(text("SELECT :q || '?'"), {"q": question}).scalar_one()


def main():
    for question in ("why", "how"):
        print(ask(question))
        gc.collect()
    with engine.connect() as conn:
        print(conn.execute(text("SELECT 'because'")).scalar_one())


main()
