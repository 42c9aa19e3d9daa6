"""A program with a sitecustomize of its own on PYTHONPATH, which must still run, in the children too."""

# expect: nothing
# args: --fail
# pythonpath: .
# oracle: 0
import os
import subprocess
import sys

import psycopg


def main():
    print("here:", os.environ.pop("TEAM_HOOK", "did not run"), flush=True)
    subprocess.run(
        [sys.executable, "-c", "import os; print('child:', os.environ.get('TEAM_HOOK', 'did not run'))"], check=True
    )
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        print(conn.execute("SELECT 'connected'").fetchone()[0])
    print("ORACLE leaked=0")


main()
