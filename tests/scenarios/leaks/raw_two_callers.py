"""One leaking helper, two callers: one line to look at, but two bugs to count."""

# expect: kind=dropped library=psycopg certain=yes count=5 fingerprints=2
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def scalar(sql, *params):
    return psycopg.connect(DSN).execute(sql, params).fetchone()[0]  # LEAK


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
