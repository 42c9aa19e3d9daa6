"""The same wrappers, closed at the end of each request; the main thread's own stays open until exit."""

# expect: nothing
# args: --fail --owner-grace 0.5
# oracle: 0
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
            self.connection = psycopg.connect(DSN, autocommit=True, application_name="request")
        return self.connection

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


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
    try:
        answers.append(connections.wrapper.ensure().execute("SELECT length(%s)", (path,)).fetchone()[0])
    finally:
        connections.wrapper.close()


def main():
    answers = []
    for path in ("/", "/cart", "/checkout"):
        thread = threading.Thread(target=request, args=(answers, path))
        thread.start()
        thread.join()
    print(answers)
    time.sleep(1.5)
    gc.collect()
    still = (
        connections.wrapper.ensure()
        .execute(
            "SELECT count(*) - 1 FROM pg_stat_activity"
            " WHERE application_name = 'request' AND datname = current_database()"
        )
        .fetchone()[0]
    )
    print(f"ORACLE leaked={still}")


main()
