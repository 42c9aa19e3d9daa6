"""The same module, closing; run with `python -m`."""

# expect: nothing
# args: --fail
# run: -m
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
conn = engine.connect()
print(conn.execute(text("SELECT 'top level'")).scalar_one())
conn.close()
conn = None
engine.dispose()
