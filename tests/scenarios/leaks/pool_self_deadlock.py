"""A pool of one and a nested acquire: the thread waits for itself until PoolTimeout, which says so."""

# expect: kind=nested_acquire library=psycopg_pool certain=no count=1 site=inner
# expect: event=exhausted cause=pool held=1 capacity=1 site=outer
# notes-name-site: yes
# oracle: 1
import os

from psycopg_pool import ConnectionPool, PoolTimeout

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=1, timeout=0.8, open=True)


def audit():
    with pool.connection() as conn:  # LEAK:inner
        conn.execute("SELECT 1")


def store():
    with pool.connection() as conn:  # LEAK:outer
        conn.execute("SELECT 1")
        try:
            audit()
        except PoolTimeout as error:
            print(type(error).__name__)
            for note in getattr(error, "__notes__", ()):
                for line in note.splitlines():
                    print("NOTE", line)
        return pool.get_stats()


def main():
    stats = store()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


main()
