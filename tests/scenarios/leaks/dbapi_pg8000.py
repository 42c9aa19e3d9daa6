"""A driver that leakguard does not know by itself, watched by the generic integration: one line says which."""

# expect: kind=dropped library=pg8000 certain=yes count=2
# needs: pg8000
import os
from urllib.parse import urlsplit

import pg8000.dbapi

import leakguard

leakguard.install(integrations=["pg8000.dbapi"])
DSN = urlsplit(os.environ["ZOO_DSN"])


def connect():
    return pg8000.dbapi.connect(DSN.username, host=DSN.hostname, port=DSN.port, database=DSN.path[1:])  # LEAK


def credit_limit(customer):
    conn = connect()
    cursor = conn.cursor()
    cursor.execute("SELECT 100 * %s::int WHERE %s::int < 10", (customer, customer))
    row = cursor.fetchone()
    if row is None:
        return None
    conn.close()
    return row[0]


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
