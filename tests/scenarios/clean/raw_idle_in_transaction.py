"""Idle for long outside a transaction, busy for long inside one: both fine."""

# expect: nothing
# args: --fail --idle-in-transaction 0.6
# oracle: 0
import os
import time

import psycopg

DSN = os.environ["ZOO_DSN"]


def main():
    with psycopg.connect(DSN) as conn, psycopg.connect(DSN, autocommit=True) as auto:
        conn.execute("SELECT 'next job'").fetchone()
        conn.commit()
        auto.execute("SELECT 1")
        try:
            conn.execute("SELECT * FROM no_such_queue")
        except psycopg.errors.UndefinedTable:
            conn.rollback()
        time.sleep(1.2)
        for _ in range(4):  # a transaction that is longer than the limit, but never idle that long
            conn.execute("SELECT pg_sleep(0.3)")
        conn.commit()
        with auto.transaction():
            auto.execute("SELECT pg_sleep(0.9)")
        stuck = auto.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        ).fetchone()[0]
    print(f"ORACLE leaked={stuck}")


main()
