"""Each request labels its work; the leak names the request that it came from."""

# expect: kind=dropped library=sqlalchemy certain=yes count=1 label.request=r-17 label.tenant=acme
# oracle: 1
import gc
import os

from sqlalchemy import create_engine, text

import leakguard

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))
seen = []


def total(items):
    conn = engine.connect()  # LEAK
    value = conn.execute(text("SELECT CAST(:n AS int) * 7"), {"n": items}).scalar_one()
    if items > 5:
        return value
    conn.close()
    return value


def main():
    for request, items in (("r-16", 3), ("r-17", 9), ("r-18", 1)):
        with leakguard.label(tenant="acme"), leakguard.label(request=request):
            print(request, total(items))
        seen.append(engine.pool.checkedout())
    gc.collect()
    print(f"ORACLE leaked={max(seen)}")
    engine.dispose()


main()
