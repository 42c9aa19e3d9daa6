"""An uncaught exception while a direct connection is open: ordinary, the process ends."""

# expect: nothing
# args: --fail
# exit: 1
import os

import psycopg


def main():
    conn = psycopg.connect(os.environ["ZOO_DSN"])
    print(conn.execute("SELECT 1").fetchone())
    raise LookupError("nobody expected that")


main()
