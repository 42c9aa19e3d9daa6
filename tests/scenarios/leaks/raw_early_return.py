"""A lookup leaves by its early return, past the close() that everybody saw in the review."""

# expect: kind=dropped library=psycopg certain=yes count=2
# stderr-names-site: yes
import os

import psycopg

DSN = os.environ["ZOO_DSN"]


def credit_limit(customer):
    conn = psycopg.connect(DSN)  # LEAK
    row = conn.execute("SELECT 100 * %(c)s::int WHERE %(c)s < 10", {"c": customer}).fetchone()
    if row is None:
        return None
    conn.close()
    return row[0]


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
