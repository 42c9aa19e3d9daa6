"""The helper closes; both callers are fine."""

# expect: nothing
# args: --fail
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def scalar(sql, *params):
    with psycopg.connect(DSN) as conn:
        return conn.execute(sql, params).fetchone()[0]


def sales_report():
    return [scalar("SELECT %s::int * 10", month) for month in (1, 2, 3)]


def stock_report():
    total = 0
    for shelf in (7, 8):
        total += scalar("SELECT %s::int", shelf)
    return total


def main():
    print(sales_report())
    print(stock_report())


main()
