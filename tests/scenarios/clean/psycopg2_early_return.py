"""The same lookup with closing(): every way out closes."""

# expect: nothing
# needs: psycopg2-binary
# args: --fail
import os
from contextlib import closing

import psycopg2

DSN = os.environ["ZOO_DSN"]


def credit_limit(customer):
    with closing(psycopg2.connect(DSN)) as conn:
        cursor = conn.cursor()
        cursor.execute("SELECT 100 * %(c)s WHERE %(c)s < 10", {"c": customer})
        row = cursor.fetchone()
        if row is None:
            return None
        return row[0]


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
