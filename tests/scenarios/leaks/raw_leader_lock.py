"""A leader election thread takes an advisory lock, keeps the connection in a module and ends: nobody can unlock."""

# expect: kind=orphaned library=psycopg certain=yes count=1
# args: --owner-grace 0.5
# oracle: 1
import os
import threading
import time

import psycopg

DSN = os.environ["ZOO_DSN"]
leader = {}


def elect():
    conn = psycopg.connect(DSN, autocommit=True)  # LEAK
    if conn.execute("SELECT pg_try_advisory_lock(4711)").fetchone()[0]:
        leader["conn"] = conn


def main():
    thread = threading.Thread(target=elect)
    thread.start()
    thread.join()
    time.sleep(2.2)
    with psycopg.connect(DSN) as conn:
        locks = conn.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE locktype = 'advisory' AND d.datname = current_database()"
        ).fetchone()[0]
    print(f"ORACLE leaked={locks}")


main()
