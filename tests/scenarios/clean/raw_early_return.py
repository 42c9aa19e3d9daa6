"""The same lookup with try/finally: every way out closes."""

# expect: nothing
# args: --fail
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def credit_limit(customer):
    conn = psycopg.connect(DSN)
    try:
        row = conn.execute("SELECT 100 * %(c)s::int WHERE %(c)s < 10", {"c": customer}).fetchone()
        if row is None:
            return None
        return row[0]
    finally:
        conn.close()


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
