"""The same driver, with closing()."""

# expect: nothing
# needs: pg8000
# args: --fail
import os
from contextlib import closing
from urllib.parse import urlsplit

import pg8000.dbapi

import leakguard

leakguard.install(integrations=["pg8000.dbapi"])
DSN = urlsplit(os.environ["ZOO_DSN"])


def connect():
    return pg8000.dbapi.connect(DSN.username, host=DSN.hostname, port=DSN.port, database=DSN.path[1:])


def credit_limit(customer):
    with closing(connect()) as conn:
        cursor = conn.cursor()
        cursor.execute("SELECT 100 * %s::int WHERE %s::int < 10", (customer, customer))
        row = cursor.fetchone()
        return None if row is None else row[0]


def main():
    for customer in (1, 11, 2, 12):
        print(customer, credit_limit(customer))


main()
