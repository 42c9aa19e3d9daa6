"""A pre-fork server by the book: the children dispose(close=False) of the inherited pool and open their own."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
# oracle-allow: the children inherit the parent's pool
import gc
import os
import sys
import time

from sqlalchemy import create_engine, text

engine = create_engine(os.environ["ZOO_DSN"].replace("postgresql://", "postgresql+psycopg://", 1))


def ask(question):
    with engine.connect() as conn:
        return conn.execute(text("SELECT length(:q)"), {"q": question}).scalar_one()


def serve(number):
    pid = os.fork()
    if pid == 0:
        engine.dispose(close=False)
        gc.collect()
        length = ask("x" * number)
        time.sleep(0.8)
        sys.exit(length)
    return pid


def main():
    print(ask("why"))
    pids = [serve(number) for number in (4, 5)]
    print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
    print(ask("still here"))
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
