"""The session stays in the table, too, but its closed connection is put back within the grace."""

# expect: nothing
# args: --fail --owner-grace 1.5
# oracle: 0
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
sessions = []


class Session:
    def __init__(self, user):
        self.user = user
        self.conn = pool.getconn()
        sessions.append(self)

    def logout(self):
        self.conn.close()
        time.sleep(0.4)
        pool.putconn(self.conn)


def main():
    for user in ("ann", "bob"):
        session = Session(user)
        print(session.conn.execute("SELECT upper(%s)", (user,)).fetchone()[0])
        session.logout()
    time.sleep(2)
    stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")
    pool.close()


main()
