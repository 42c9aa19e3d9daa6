"""The feeds are closed by an atexit handler; another one ran dry; a third was dropped, which closes it."""

# expect: nothing
# args: --fail
# allow: nested_acquire
import atexit
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
feeds = {}


@atexit.register
def stop():
    for each in feeds.values():
        each.close()
    print("out at the end:", engine.pool.checkedout())


def feed(name, count):
    with engine.connect() as conn:
        for (number,) in conn.execute(text("SELECT generate_series(1, :n)"), {"n": count}):
            yield f"{name}-{number}"


def main():
    feeds["a"] = feed("a", 100)
    print(next(feeds["a"]), next(feeds["a"]))
    print(list(feed("b", 2)))
    print(next(feed("c", 50)))


main()
