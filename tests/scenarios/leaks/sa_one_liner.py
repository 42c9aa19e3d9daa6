"""engine.connect().execute(...).scalar() in one expression over several lines: nobody can close what has no name."""

# expect: kind=dropped library=sqlalchemy certain=yes count=3 healed=yes
import gc
import os

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1), poolclass=NullPool)


def setting(name):
    return (
        engine.connect()  # LEAK
        .execute(text("SELECT current_setting(:name)"), {"name": name})
        .scalar_one()
    )


def main():
    print([setting(name) for name in ("server_encoding", "DateStyle", "server_encoding")])
    gc.collect()


main()
