"""--fail leaves the status of a command that failed by itself alone."""

# expect: nothing
# args: --fail
# exit: 7
import os
import sys

import psycopg


def version():
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        return conn.execute("SHOW server_version_num").fetchone()[0]


print(int(version()) > 100000)
sys.exit(7)
