"""A worker process is started with its own leakguard settings in the environment; these count there."""

# expect: kind=overdue library=psycopg_pool certain=no count=1
# expect: event=recovered kind=overdue count=1 min-held=1.4
# oracle: 1
import os
import subprocess
import sys
import time

from psycopg_pool import ConnectionPool


def worker():
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, open=True) as pool:
        conn = pool.getconn()  # LEAK
        time.sleep(1.6)
        held = pool.get_stats()["pool_size"] - pool.get_stats()["pool_available"]
        pool.putconn(conn)
    print(f"ORACLE leaked={held}")


def main():
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, open=True) as pool, pool.connection():
        time.sleep(1.6)  # here, the default threshold of a minute counts
    subprocess.run([sys.executable, __file__, "worker"], env={**os.environ, "LEAKGUARD_THRESHOLD": "0.5"}, check=True)


if sys.argv[1:] == ["worker"]:
    worker()
else:
    main()
