"""The model class caches its connection and overwrites it on every reconnect without closing the old one."""

# expect: kind=dropped library=psycopg certain=yes count=2
import os

import psycopg


class Model:
    _conn = None

    @classmethod
    def reconnect(cls):
        cls._conn = psycopg.connect(os.environ["ZOO_DSN"], autocommit=True)  # LEAK
        return cls._conn

    @classmethod
    def ask(cls, sql):
        conn = cls._conn or cls.reconnect()
        try:
            return conn.execute(sql).fetchone()[0]
        except psycopg.Error:
            return cls.reconnect().execute("SELECT 'reconnected'").fetchone()[0]


class Price(Model):
    pass


def main():
    print(Price.ask("SELECT 1"))
    print(Price.ask("SELECT 1/0"))
    print(Price.ask("SELECT nothing"))
    print(Price.ask("SELECT 2"))


main()
