"""Streamed results in `with`; the garbage collector runs in the middle of an iteration and while a stream waits."""

# expect: nothing
# args: --fail --threshold 30
# oracle: 0
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def rows(limit):
    with engine.connect() as conn:
        conn = conn.execution_options(yield_per=10)
        with conn.execute(text("SELECT generate_series(1, :n)"), {"n": limit}) as result:
            for part in result.partitions(10):
                gc.collect()
                yield len(part)


def main():
    print(list(rows(35)))
    stream = rows(1000)
    print(next(stream))
    gc.collect()
    print(next(stream))
    stream.close()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
