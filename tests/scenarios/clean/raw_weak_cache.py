"""The same weak cache; weakref.finalize closes the connection when the wrapper goes."""

# expect: nothing
# args: --fail
import os
import weakref

import psycopg

DSN = os.environ["ZOO_DSN"]


cache = weakref.WeakValueDictionary()


class Tenant:
    def __init__(self, name):
        self.name = name
        self.db = psycopg.connect(DSN, autocommit=True, application_name=name)
        weakref.finalize(self, self.db.close)

    @classmethod
    def get(cls, name):
        tenant = cache.get(name)
        if tenant is None:
            tenant = cache[name] = cls(name)
        return tenant

    def greet(self):
        return self.db.execute("SELECT current_setting('application_name')").fetchone()[0]


def main():
    for name in ("acme", "bolt", "acme"):
        print(Tenant.get(name).greet())
    print("cached:", len(cache))


main()
