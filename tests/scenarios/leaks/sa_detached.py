"""A connection is detached from the pool for session-level settings, and then nobody owns it any more."""

# expect: kind=dropped library=sqlalchemy|psycopg certain=yes count=2
# oracle-allow: SQLAlchemy lets go of a detached connection without any event; psycopg's own warning is the sign
import gc
import os

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def in_time_zone(zone):
    conn = engine.connect()  # LEAK
    conn.detach()
    conn.execute(text("SELECT set_config('TimeZone', :zone, false)"), {"zone": zone})
    return conn.execute(text("SHOW TimeZone")).scalar_one()


def main():
    print(in_time_zone("UTC"), in_time_zone("Europe/Zurich"))
    gc.collect()
    engine.dispose()


main()
