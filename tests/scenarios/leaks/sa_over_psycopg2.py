"""Sessions over psycopg2 that nobody closes: SQLAlchemy takes the connections back, and only it is reported."""

# expect: kind=dropped library=sqlalchemy certain=yes count=3 healed=yes
# needs: psycopg2-binary
import gc
import os

from sqlalchemy import create_engine, text
from sqlalchemy.orm import sessionmaker

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg2://", 1))
make = sessionmaker(engine)


def square(number):
    session = make()
    return session.execute(text("SELECT :n * :n"), {"n": number}).scalar_one()  # LEAK


def main():
    print([square(number) for number in (2, 3, 4)])
    gc.collect()
    engine.dispose()


main()
