"""With --fail a command that succeeded, but leaked, exits 3."""

# expect: kind=dropped library=psycopg certain=yes count=1
# args: --fail
# guarded-exit: 3
import os
import sys

import psycopg


def version():
    return psycopg.connect(os.environ["ZOO_DSN"]).execute("SHOW server_version_num").fetchone()[0]  # LEAK


print(int(version()) > 100000)
sys.exit(0)
