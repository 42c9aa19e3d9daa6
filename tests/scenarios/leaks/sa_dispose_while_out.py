"""Configuration reload: engine.dispose() while a connection is out, which is then forgotten."""

# expect: kind=dropped library=sqlalchemy certain=yes count=1
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


class Feed:
    def __init__(self):
        self.conn = engine.connect()  # LEAK

    def read(self):
        return self.conn.execute(text("SELECT 'news'")).scalar_one()


def main():
    feed = Feed()
    print(feed.read())
    engine.dispose()
    print(feed.read())
    with engine.connect() as conn:
        print(conn.execute(text("SELECT 'new pool'")).scalar_one())
    del feed
    gc.collect()


main()
