"""The constructor cleans up after itself when it fails half-way."""

# expect: nothing
# args: --fail
import gc
import os

import psycopg


class Ledger:
    def __init__(self, dsn, currency):
        self.conn = psycopg.connect(dsn)
        try:
            known = self.conn.execute("SELECT %s IN ('EUR', 'CHF')", (currency,)).fetchone()[0]
            if not known:
                raise ValueError(f"unknown currency {currency}")
        except BaseException:
            self.conn.close()
            raise
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
