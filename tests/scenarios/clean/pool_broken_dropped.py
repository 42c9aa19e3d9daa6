"""The server ends idle and held sessions of a pool and of an engine; all of them are given back, and replaced."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
import logging
import os
import time

import psycopg
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

DSN = os.environ["ZOO_DSN"]
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
pool = ConnectionPool(DSN, min_size=1, max_size=3, check=ConnectionPool.check_connection, open=True)
engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://", 1), pool_pre_ping=True)
KILL = "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> %s"


def kill_others(admin):
    admin.execute(KILL, (admin.info.backend_pid,)).fetchall()


def on_pool(admin=None):
    with pool.connection() as conn:
        if admin:
            kill_others(admin)
        return conn.execute("SELECT 'pool'").fetchone()[0]


def on_engine(admin=None):
    with engine.connect() as conn:
        if admin:
            kill_others(admin)
        return conn.execute(text("SELECT 'engine'")).scalar_one()


def main():
    with psycopg.connect(DSN, autocommit=True) as admin:
        for victim in (None, admin, None):
            for job in (on_pool, on_engine):
                try:
                    print(job(victim))
                except (psycopg.OperationalError, DBAPIError) as error:
                    print(type(error).__name__)
        kill_others(admin)
        print(on_pool(), on_engine())
    time.sleep(1.2)
    stats = pool.get_stats()
    leaked = stats["pool_size"] - stats["pool_available"] + engine.pool.checkedout()
    pool.close()
    engine.dispose()
    print(f"ORACLE leaked={leaked}")


main()
