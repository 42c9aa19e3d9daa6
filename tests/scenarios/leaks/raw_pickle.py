"""__setstate__ reconnects, so that each copy of the settings object has a connection that nobody knows of."""

# expect: kind=dropped library=psycopg certain=yes count=3
import copy
import os
import pickle

import psycopg


class Settings:
    def __init__(self, dsn):
        self.dsn = dsn
        self.connect()

    def connect(self):
        self.conn = psycopg.connect(self.dsn, autocommit=True)  # LEAK

    def get(self, name):
        return self.conn.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]

    def __getstate__(self):
        return {"dsn": self.dsn}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self.connect()


def main():
    settings = Settings(os.environ["ZOO_DSN"])
    try:
        print(settings.get("server_encoding"))
        print(copy.copy(settings).get("DateStyle"))
        blob = pickle.dumps(settings)
        for _ in range(2):
            print(pickle.loads(blob).get("server_encoding"))
    finally:
        settings.conn.close()


main()
