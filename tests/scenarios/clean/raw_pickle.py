"""Copies connect lazily, and the ones that connected are closed."""

# expect: nothing
# args: --fail
import copy
import os
import pickle
from contextlib import closing

import psycopg


class Settings:
    def __init__(self, dsn):
        self.dsn = dsn
        self.conn = None

    def get(self, name):
        if self.conn is None:
            self.conn = psycopg.connect(self.dsn, autocommit=True)
        return self.conn.execute("SELECT current_setting(%s)", (name,)).fetchone()[0]

    def close(self):
        if self.conn is not None:
            self.conn.close()

    def __getstate__(self):
        return {"dsn": self.dsn, "conn": None}


def main():
    with closing(Settings(os.environ["ZOO_DSN"])) as settings:
        print(settings.get("server_encoding"))
        copy.copy(settings)
        blob = pickle.dumps(settings)
        with closing(pickle.loads(blob)) as loaded:
            print(loaded.get("DateStyle"))
        pickle.loads(blob)


main()
