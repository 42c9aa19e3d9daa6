"""Thread-local connection wrappers as a web framework keeps them; request threads end, the wrappers are cyclic."""

# expect: kind=orphaned|dropped library=psycopg certain=yes count=3
# args: --owner-grace 0.5
# oracle: 3
import gc
import os
import threading
import time

import psycopg

DSN = os.environ["ZOO_DSN"]


class Wrapper:
    def __init__(self):
        self.connection = None
        self.features = Features(self)

    def ensure(self):
        if self.connection is None:
            self.connection = psycopg.connect(DSN, autocommit=True, application_name="request")  # LEAK
        return self.connection


class Features:
    def __init__(self, wrapper):
        self.wrapper = wrapper


class Handler:
    local = threading.local()

    @property
    def wrapper(self):
        if not hasattr(self.local, "wrapper"):
            self.local.wrapper = Wrapper()
        return self.local.wrapper


connections = Handler()


def request(answers, path):
    answers.append(connections.wrapper.ensure().execute("SELECT length(%s)", (path,)).fetchone()[0])


def main():
    gc.disable()
    answers = []
    for path in ("/", "/cart", "/checkout"):
        thread = threading.Thread(target=request, args=(answers, path))
        thread.start()
        thread.join()
    print(answers)
    time.sleep(2)
    with psycopg.connect(DSN) as conn:
        still = conn.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'request' AND datname = current_database()"
        ).fetchone()[0]
    gc.collect()
    print(f"ORACLE leaked={still}")


main()
