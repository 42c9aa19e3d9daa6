"""A generator with `with engine.connect()` is kept, never finished: at exit its checkout is out."""

# expect: kind=outstanding library=sqlalchemy certain=no count=1 boundary=exit
# oracle: 1
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
feeds = {}


def feed(name):
    with engine.connect() as conn:  # LEAK
        for (number,) in conn.execute(text("SELECT generate_series(1, 100)")):
            yield f"{name}-{number}"


def poll(name):
    if name not in feeds:
        feeds[name] = feed(name)
    return next(feeds[name])


def main():
    print(poll("a"), poll("a"), poll("a"))
    print(f"ORACLE leaked={engine.pool.checkedout()}")


main()
