"""ProcessPoolExecutor with spawn: fresh interpreters, the same forgotten connection."""

# expect: kind=dropped library=psycopg_pool certain=yes count=2 healed=no
# summary: optional
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

from psycopg_pool import ConnectionPool


def lengths(words):
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True) as pool:
        conn = pool.getconn()  # LEAK
        total = conn.execute("SELECT sum(length(w)) FROM unnest(%s::text[]) w", (words,)).fetchone()[0]
        del conn
    return total


def main():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print(list(executor.map(lengths, (["a", "bc"], ["def"]))))


if __name__ == "__main__":
    main()
