"""A checkout is held while a slow HTTP call is made; it comes back in the end, far too late."""

# expect: kind=overdue library=psycopg_pool certain=no count=1 state=idle|in_transaction
# expect: event=recovered kind=overdue count=1 min-held=1.9
# args: --threshold 0.5
# oracle: 1
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)


def call_payment_provider():
    time.sleep(2)
    return pool.get_stats()


def pay(order):
    with pool.connection() as conn:  # LEAK
        amount = conn.execute("SELECT 10 * %s::int", (order,)).fetchone()[0]
        conn.commit()
        stats = call_payment_provider()
    return amount, stats["pool_size"] - stats["pool_available"]


def main():
    amount, out = pay(3)
    print("paid", amount)
    pool.close()
    print(f"ORACLE leaked={out}")


main()
