"""The package's database layer."""

import os

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=5, open=True)


class Repository:
    def __enter__(self):
        self.conn = pool.getconn()  # LEAK
        return self

    def __exit__(self, kind, error, traceback):
        if error is not None:
            pool.putconn(self.conn)

    def value(self, query, *params):
        return self.conn.execute(query, params).fetchone()[0]
