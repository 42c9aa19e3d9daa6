"""The same in `with`, over NullPool, with pre_ping and recycle; and a failing statement inside begin()."""

# expect: nothing
# args: --fail
# oracle: 0
import os

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)
plain = create_engine(URL, poolclass=NullPool)
pinged = create_engine(URL, pool_pre_ping=True, pool_recycle=0)


def setting(engine, name):
    with engine.connect() as conn:
        return conn.execute(text("SELECT current_setting(:name)"), {"name": name}).scalar_one()


def main():
    for engine in (plain, pinged):
        print([setting(engine, name) for name in ("server_encoding", "DateStyle", "server_encoding")])
        try:
            with engine.begin() as conn:
                conn.execute(text("SELECT 1/0"))
        except DBAPIError as error:
            print(type(error).__name__)
    print(f"ORACLE leaked={pinged.pool.checkedout()}")
    pinged.dispose()


main()
