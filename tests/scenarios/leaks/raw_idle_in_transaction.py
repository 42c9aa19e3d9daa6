"""A worker reads its queue head and then thinks, with the transaction open; another one sits in an aborted one."""

# expect: kind=idle_in_transaction library=psycopg certain=no count=1 state=in_transaction site=open
# expect: kind=idle_in_transaction library=psycopg certain=no count=1 state=in_error site=aborted
# args: --idle-in-transaction 0.5
# oracle: 2
import os
import time

import psycopg

DSN = os.environ["ZOO_DSN"]


def thinker():
    conn = psycopg.connect(DSN)  # LEAK:open
    conn.execute("SELECT 'next job'").fetchone()
    return conn


def failer():
    conn = psycopg.connect(DSN)  # LEAK:aborted
    try:
        conn.execute("SELECT * FROM no_such_queue")
    except psycopg.errors.UndefinedTable:
        print("retry later")
    return conn


def main():
    held = [thinker(), failer()]
    time.sleep(2)
    with psycopg.connect(DSN) as conn:
        stuck = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND state LIKE 'idle in transaction%'"
        ).fetchone()[0]
    for each in held:
        each.close()
    print(f"ORACLE leaked={stuck}")


main()
