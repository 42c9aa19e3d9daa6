"""A program that replaces itself by os.execv, as reloaders do; its first life ends without good-bye."""

# expect: nothing
# args: --fail
# oracle: 0
import os
import sys

import psycopg


def main():
    life = int(os.environ.get("REEXEC_LIFE", "1"))
    conn = psycopg.connect(os.environ["ZOO_DSN"])
    print("life", life, conn.execute("SELECT 'ok'").fetchone()[0], flush=True)
    if life == 1:
        os.environ["REEXEC_LIFE"] = "2"
        os.execv(sys.executable, [sys.executable, __file__])
    conn.close()
    print("ORACLE leaked=0")


main()
