"""Labels, nested and in threads, change nothing about work that is closed."""

# expect: nothing
# args: --fail
# oracle: 0
import os
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import create_engine, text

import leakguard

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def total(request, items):
    with leakguard.label(tenant="acme"), leakguard.label(request=request), engine.connect() as conn:
        return conn.execute(text("SELECT CAST(:n AS int) * 7"), {"n": items}).scalar_one()


def main():
    print([total(request, 3) for request in ("r-16", "r-17")])
    with ThreadPoolExecutor(2) as executor:
        print(list(executor.map(total, ("r-18", "r-19"), (1, 2))))
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
