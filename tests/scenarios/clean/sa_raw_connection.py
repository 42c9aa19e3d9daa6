"""raw_connection() in closing(); a driver_connection that was looked at; a detached connection that is closed."""

# expect: nothing
# args: --fail
# oracle: 0
import gc
import os
from contextlib import closing

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def export(query):
    with closing(engine.raw_connection()) as raw:
        with raw.cursor() as cur, cur.copy(f"COPY ({query}) TO STDOUT") as copy:
            return [row[0] for row in copy.rows()]


def main():
    print(export("SELECT generate_series(1, 3)"))
    seen = []
    with engine.connect() as conn:
        seen.append(conn.connection.driver_connection)
        print(conn.execute(text("SELECT 'pooled'")).scalar_one())
    with engine.connect() as conn:
        conn.detach()
        print(conn.execute(text("SELECT 'detached'")).scalar_one())
    seen.clear()
    gc.collect()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
