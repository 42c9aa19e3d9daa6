"""The creator opens connections in threads that end; idle in the engine's pool, they are nobody's direct connection."""

# expect: nothing
# args: --fail --owner-grace 0.5 --threshold 0.5
# oracle: 0
import gc
import os
import threading
import time

import psycopg
from sqlalchemy import create_engine, text


def open_connection():
    return psycopg.connect(os.environ["ZOO_DSN"], application_name="creator")


engine = create_engine("postgresql+psycopg://", creator=open_connection, pool_size=2, max_overflow=2)


def ask(barrier, answers):
    with engine.connect() as conn:
        barrier.wait(5)
        answers.append(conn.execute(text("SELECT current_setting('application_name')")).scalar_one())


def main():
    answers = []
    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=ask, args=(barrier, answers)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(answers)
    time.sleep(1.8)
    gc.collect()
    print(f"ORACLE leaked={engine.pool.checkedout()}")
    engine.dispose()


main()
