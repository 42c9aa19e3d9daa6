"""A connection that is no longer wanted is closed by the pool: putconn(conn, close=True)."""

# expect: nothing
# needs: psycopg2-binary
# args: --owner-grace 0.5 --fail
# oracle: 0
import os
import time

from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 4, os.environ["ZOO_DSN"])
sessions = []


class Session:
    def __init__(self, user):
        self.user = user
        self.conn = pool.getconn()
        sessions.append(self)

    def greet(self):
        with self.conn.cursor() as cursor:
            cursor.execute("SELECT 'hello ' || %s", (self.user,))
            return cursor.fetchone()[0]

    def logout(self):
        pool.putconn(self.conn, close=True)


def main():
    for user in ("ann", "bob"):
        session = Session(user)
        print(session.greet())
        session.logout()
    time.sleep(2.2)
    print(f"ORACLE leaked={len(pool._used)}")


main()
