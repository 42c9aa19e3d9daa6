"""Find the connections that outlive their thread.

Flask's development server, waitress and many others handle requests in threads. Code that keeps one connection for
each thread, and no hook that closes it, leaks one whenever a thread ends: the dictionary holds on to the connection,
so nothing is ever garbage-collected, and nothing warns. (Here the threads are started by hand, to keep it short.)

Run it: python examples/flask_threads.py
"""

import contextlib
import os
import threading
import time

import psycopg

import leakguard
from leakguard.demo.postgres import PostgresServer

connections: dict[int, psycopg.Connection] = {}


def get_connection(dsn: str) -> psycopg.Connection:
    ident = threading.get_ident()
    if ident not in connections:
        connections[ident] = psycopg.connect(dsn)  # LEAK
    return connections[ident]


def handle_request(dsn: str, everybody_is_here: threading.Barrier) -> None:
    get_connection(dsn).execute("SELECT 1")
    everybody_is_here.wait()


def on_leak(event: object) -> None:
    if isinstance(event, leakguard.Leak) and event.site and event.hold:
        print(f"-> {event.kind}: {event.site.file}:{event.site.line}: {event.site.code}")
        print(f"   taken by thread {event.hold.owner.thread!r}, which has {event.now.owner}")


def main(dsn: str) -> None:
    # Direct connections belong to no pool that could be watched, so the whole process is.
    with leakguard.install(owner_grace=0.2, on_leak=on_leak):
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=handle_request, args=(dsn, barrier), name=f"request-{n}") for n in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print("all requests are answered, all threads have ended;", len(leakguard.holds()), "connections are held")
        time.sleep(0.3)  # the grace: a thread pool may be about to hand them to another thread
        leakguard.check()
        for connection in connections.values():
            connection.close()


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        main(os.environ.get("LEAKGUARD_EXAMPLE_DSN") or stack.enter_context(PostgresServer()).dsn())
