"""Engines that come and go without a trace: disposed of, over NullPool, or never connected."""

# expect: nothing
# args: --fail
import gc
import os

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

URL = os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1)


def ask(engine, request):
    with engine.connect() as conn:
        return conn.execute(text("SELECT upper(:r)"), {"r": request}).scalar_one()


def disposed(request):
    engine = create_engine(URL)
    try:
        return ask(engine, request)
    finally:
        engine.dispose()


def main():
    print(disposed("list"))
    print(ask(create_engine(URL, poolclass=NullPool), "show"))
    create_engine(URL)
    gc.collect()
    engine = create_engine(URL)
    print(ask(engine, "edit"))
    engine.dispose(close=True)
    del engine
    gc.collect()


main()
