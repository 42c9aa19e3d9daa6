"""The spawned worker uses its pool properly; a plain subprocess connects and closes, too."""

# expect: nothing
# args: --fail
# summary: optional
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

from psycopg_pool import ConnectionPool

CODE = """
import os, psycopg
with psycopg.connect(os.environ["ZOO_DSN"]) as conn:
    print(conn.execute("SELECT 9").fetchone()[0])
"""


def lengths(words):
    with ConnectionPool(os.environ["ZOO_DSN"], min_size=1, max_size=4, open=True) as pool, pool.connection() as conn:
        return conn.execute("SELECT sum(length(w)) FROM unnest(%s::text[]) w", (words,)).fetchone()[0]


def main():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        print(list(executor.map(lengths, (["a", "bc"], ["def"]))))
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    print(done.stdout.strip())


if __name__ == "__main__":
    main()
