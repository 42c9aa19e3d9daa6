"""A single module run with `python -m`, at module level, with no function around the leak."""

# expect: kind=dropped library=sqlalchemy certain=yes count=1 healed=yes
# run: -m
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
conn = engine.connect()  # LEAK
print(conn.execute(text("SELECT 'top level'")).scalar_one())
conn = None
gc.collect()
engine.dispose()
