"""Detached connections, closed by `with`, by close(), and by invalidate() and close()."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 0.5
# oracle: 0
import gc
import os
import time

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def in_time_zone(zone):
    with engine.connect() as conn:
        conn.detach()
        conn.execute(text("SELECT set_config('TimeZone', :zone, false)"), {"zone": zone})
        return conn.execute(text("SHOW TimeZone")).scalar_one()


def main():
    print(in_time_zone("UTC"), in_time_zone("Europe/Zurich"))
    kept = engine.connect()
    kept.detach()
    kept.execute(text("SELECT 1"))
    kept.rollback()
    time.sleep(1.2)  # detached, it is a direct connection: age alone is no leak
    kept.close()
    broken = engine.connect()
    broken.invalidate()
    broken.close()
    del kept, broken
    gc.collect()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
