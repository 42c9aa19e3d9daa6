"""A client object closes its pooled connection at logout and stays in the session table: the slot is lost."""

# expect: kind=lost_slot library=psycopg_pool certain=yes count=2
# args: --owner-grace 0.5
# oracle: 2
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True)
sessions = []


class Session:
    def __init__(self, user):
        self.user = user
        self.conn = pool.getconn()  # LEAK
        sessions.append(self)

    def logout(self):
        self.conn.close()


def main():
    for user in ("ann", "bob"):
        session = Session(user)
        print(session.conn.execute("SELECT upper(%s)", (user,)).fetchone()[0])
        session.logout()
    time.sleep(2.2)
    stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")
    pool.close()


main()
