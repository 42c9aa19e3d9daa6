"""The connection goes back before the slow call, and a planned long hold says so with expect_long()."""

# expect: nothing
# args: --fail --threshold 0.5
# oracle: 0
import os
import time

from psycopg_pool import ConnectionPool

import leakguard

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)


def call_payment_provider():
    time.sleep(1.2)


def pay(order):
    with pool.connection() as conn:
        amount = conn.execute("SELECT 10 * %s::int", (order,)).fetchone()[0]
    call_payment_provider()
    return amount


def nightly_report():
    with leakguard.expect_long("the nightly report streams for minutes", threshold=60.0), pool.connection() as conn:
        time.sleep(1.5)
        return conn.execute("SELECT 'report'").fetchone()[0]


def main():
    print("paid", pay(3))
    print(nightly_report())
    time.sleep(0.3)
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
