"""A lookup leaves by its early return, past the close(); psycopg2 itself never says a word."""

# expect: kind=dropped library=psycopg2 certain=yes count=2
# needs: psycopg2-binary
# stderr-names-site: yes
import os

import psycopg2

DSN = os.environ["ZOO_DSN"]


def credit_limit(customer):
    conn = psycopg2.connect(DSN)  # LEAK
    cursor = conn.cursor()
    cursor.execute("SELECT 100 * %(c)s WHERE %(c)s < 10", {"c": customer})
    row = cursor.fetchone()
    if row is None:
        return None
    conn.close()
    return row[0]


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
