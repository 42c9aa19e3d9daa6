"""engine.raw_connection() for a COPY, without close(); a failing COPY leaves it, too."""

# expect: kind=dropped library=sqlalchemy certain=yes count=2 healed=yes
import gc
import os

from sqlalchemy import create_engine

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def export(query):
    raw = engine.raw_connection()  # LEAK
    with raw.cursor() as cur, cur.copy(f"COPY ({query}) TO STDOUT") as copy:
        lines = [row[0] for row in copy.rows()]
    raw.rollback()
    return lines


def main():
    print(export("SELECT generate_series(1, 3)"))
    try:
        export("SELECT * FROM nowhere")
    except Exception as error:
        print(type(error).__name__)
    gc.collect()
    engine.dispose()


main()
