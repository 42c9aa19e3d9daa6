"""invalidate(), soft or not, a second life of the same Connection object, and close() in the end."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def main():
    with engine.connect() as conn:
        conn.execute(text("SELECT 'first'"))
        conn.rollback()
        conn.invalidate()
        print(conn.execute(text("SELECT 'second'")).scalar_one())
    with engine.connect() as conn:
        conn.connection.invalidate(soft=True)
        print(conn.execute(text("SELECT 'soft'")).scalar_one())
    conn = engine.connect()
    conn.invalidate()
    del conn
    gc.collect()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
