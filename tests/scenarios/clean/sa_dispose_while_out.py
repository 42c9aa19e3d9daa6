"""dispose() while a connection is out, which comes back to the old pool."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


class Feed:
    def __init__(self):
        self.conn = engine.connect()

    def read(self):
        return self.conn.execute(text("SELECT 'news'")).scalar_one()


def main():
    feed = Feed()
    old = engine.pool
    print(feed.read())
    engine.dispose()
    print(feed.read())
    feed.conn.close()
    with engine.connect() as conn:
        print(conn.execute(text("SELECT 'new pool'")).scalar_one())
    out = engine.pool.checkedout()
    old.dispose()
    engine.dispose()
    del feed, old
    gc.collect()
    print(f"ORACLE leaked={out}")


main()
