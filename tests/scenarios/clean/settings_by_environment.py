"""The worker is started with LEAKGUARD_ENABLED=false: what it does is nobody's business."""

# expect: nothing
# args: --fail
# oracle-allow: the worker leaks, unguarded
import os
import subprocess
import sys

import psycopg


def worker():
    psycopg.connect(os.environ["ZOO_DSN"]).execute("SELECT 1")
    print("worker done")


def main():
    with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
        print(conn.execute("SELECT 'parent'").fetchone()[0], flush=True)
    subprocess.run([sys.executable, __file__, "worker"], env={**os.environ, "LEAKGUARD_ENABLED": "false"}, check=True)


if sys.argv[1:] == ["worker"]:
    worker()
else:
    main()
