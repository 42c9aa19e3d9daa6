"""A module-level checkout "for the life of the program": at exit it is still out."""

# expect: kind=outstanding library=psycopg_pool certain=no count=1 boundary=exit
# oracle: 1
import os
import time

from psycopg_pool import ConnectionPool

pool = ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=2, open=True)
db = pool.getconn()  # LEAK


def main():
    print(db.execute("SELECT 'settings loaded'").fetchone()[0])
    db.commit()
    time.sleep(0.5)  # the pool may still be growing
    stats = pool.get_stats()
    print(f"ORACLE leaked={stats['pool_size'] - stats['pool_available']}")


if __name__ == "__main__":
    main()
