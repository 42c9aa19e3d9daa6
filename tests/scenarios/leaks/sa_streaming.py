"""A streamed result is read to the first match and dropped, connection and server-side cursor with it."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2 healed=yes
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def first_over(limit):
    conn = engine.connect().execution_options(stream_results=True, max_row_buffer=10)  # LEAK
    for row in conn.execute(text("SELECT generate_series(1, 1000) AS n")).mappings():
        if row["n"] > limit:
            return row["n"]
    conn.close()
    return None


def main():
    print(first_over(10), first_over(700), first_over(5000))
    gc.collect()
    with engine.connect() as conn:
        print(conn.execute(text("SELECT 'still fine'")).scalar_one())
    engine.dispose()


main()
