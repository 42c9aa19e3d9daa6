"""A SELECT before a slow upload leaves the transaction open; commit and return come at last."""

# expect: kind=idle_in_transaction library=psycopg_pool certain=no count=1 state=in_transaction
# expect: event=recovered kind=idle_in_transaction count=1 min-held=1.4
# args: --idle-in-transaction 0.5
# oracle: 1
import os
import time

import psycopg
from psycopg_pool import ConnectionPool

DSN = os.environ["ZOO_DSN"]
pool = ConnectionPool(DSN, min_size=1, max_size=2, open=True)


def stuck_sessions():
    with psycopg.connect(DSN, autocommit=True) as conn:
        return conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
        ).fetchone()[0]


def upload(name):
    with pool.connection() as conn:  # LEAK
        body = conn.execute("SELECT repeat(%s, 3)", (name,)).fetchone()[0]
        time.sleep(1.8)
        stuck = stuck_sessions()
    return body, stuck


def main():
    body, stuck = upload("ab")
    print(body)
    pool.close()
    print(f"ORACLE leaked={stuck}")


main()
