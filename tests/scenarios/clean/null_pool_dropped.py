"""NullConnectionPool used properly; most connections never live longer than their checkout."""

# expect: nothing
# args: --fail --threshold 1 --owner-grace 0.5
# oracle: 0
import os
import threading

from psycopg_pool import NullConnectionPool

pool = NullConnectionPool(os.environ["ZOO_DSN"], max_size=2, open=True)


def ask(answers, number):
    for _ in range(3):
        with pool.connection() as conn:
            answers.append(conn.execute("SELECT %s::int", (number,)).fetchone()[0])


def main():
    answers = []
    threads = [threading.Thread(target=ask, args=(answers, number)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sorted(answers))
    stats = pool.get_stats()
    pool.close()
    print(f"ORACLE leaked={stats['pool_size']}")


main()
