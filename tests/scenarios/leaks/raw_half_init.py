"""The constructor connects first and validates afterwards: nobody ever gets an object to close."""

# expect: kind=dropped library=psycopg certain=yes count=2
# stderr-names-site: yes
import gc
import os

import psycopg


class Ledger:
    def __init__(self, dsn, currency):
        self.conn = psycopg.connect(dsn)  # LEAK
        known = self.conn.execute("SELECT %s IN ('EUR', 'CHF')", (currency,)).fetchone()[0]
        if not known:
            raise ValueError(f"unknown currency {currency}")
        self.currency = currency

    def close(self):
        self.conn.close()


def main():
    for currency in ("EUR", "XXX", "CHF", "YYY"):
        try:
            ledger = Ledger(os.environ["ZOO_DSN"], currency)
        except ValueError as error:
            print(error)
        else:
            print("ledger in", ledger.currency)
            ledger.close()
    gc.collect()


main()
