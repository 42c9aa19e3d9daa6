"""The class attribute is closed before it is replaced; the last one is open at exit, as such caches are."""

# expect: nothing
# args: --fail
import os

import psycopg


class Model:
    _conn = None

    @classmethod
    def reconnect(cls):
        if cls._conn is not None:
            cls._conn.close()
        cls._conn = psycopg.connect(os.environ["ZOO_DSN"], autocommit=True)
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
