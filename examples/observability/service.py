"""A shop that leaks, with metrics at `/metrics`: one process, or several under gunicorn.

    export DATABASE_URL=postgresql://...
    python examples/observability/service.py 8000

    export PROMETHEUS_MULTIPROC_DIR=$(mktemp -d)
    gunicorn --workers 3 --bind 127.0.0.1:8000 --chdir examples/observability service:app

`/orders` is in order. `/export` takes a connection and forgets it: each visit costs the pool one of its five. `/hold`
keeps one for `?seconds=`.
"""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from urllib.parse import parse_qs
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from psycopg_pool import ConnectionPool, PoolTimeout

import leakguard
from leakguard.reporters.prometheus import PrometheusReporter

leakguard.install(threshold=5.0, on_leak=["log", PrometheusReporter()])


@functools.cache
def pool() -> ConnectionPool:
    """The pool of this process: gunicorn has forked by the time of the first request."""
    return ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=5, timeout=1.0, name="shop", open=True)


def orders(_query: dict[str, list[str]]) -> str:
    with pool().connection() as connection:
        return str(connection.execute("SELECT count(*) FROM generate_series(1, 3)").fetchone())


def export(_query: dict[str, list[str]]) -> str:
    connection = pool().getconn()  # LEAK
    return str(connection.execute("SELECT 'exported'").fetchone())


def hold(query: dict[str, list[str]]) -> str:
    with pool().connection():
        time.sleep(float(query["seconds"][0]))
    return "held"


def metrics(_query: dict[str, list[str]]) -> str:
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # then the files of all workers tell, whichever of them is asked
        MultiProcessCollector(registry := CollectorRegistry())
    return generate_latest(registry).decode()


ROUTES = {"/orders": orders, "/export": export, "/hold": hold, "/metrics": metrics}


def app(environ: dict[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    try:
        status, text = "200 OK", ROUTES[environ["PATH_INFO"]](parse_qs(environ.get("QUERY_STRING", "")))
    except KeyError:
        status, text = "404 Not Found", "/orders, /export, /hold?seconds=10, /metrics"
    except PoolTimeout as error:
        status, text = "503 Service Unavailable", str(error)
    start_response(
        status, [("Content-Type", "text/plain; version=0.0.4; charset=utf-8"), ("X-Worker", str(os.getpid()))]
    )
    return [text.encode()]


class Server(ThreadingMixIn, WSGIServer):
    """One thread for each request."""

    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """No line for each request."""

    def log_message(self, *_args: object) -> None:
        pass


if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]), app, server_class=Server, handler_class=Quiet) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
