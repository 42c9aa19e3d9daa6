"""A Flask application under gunicorn: one worker or several, threads, `--preload`, gevent.

    export DATABASE_URL=postgresql://...
    leakguard run -- gunicorn --chdir examples/servers flask_app:app
    leakguard run -- gunicorn --chdir examples/servers --preload --workers 2 flask_app:app
    leakguard run -- gunicorn --chdir examples/servers --worker-class gevent flask_app:app

`/orders` and `/export` are in order. `/orders/leaky` forgets to close on its way out; `/export/leaky` starts a thread
(under gevent: a greenlet) that ends while a dictionary still has its connection.
"""

import os
import threading

from flask import Flask
from sqlalchemy import Connection, create_engine, text

app = Flask(__name__)
engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1))
# With --preload the engine is made in gunicorn's master. A worker must not use the master's connections, nor close
# them; gunicorn's post_fork hook would do as well.
os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
exports: dict[str, Connection] = {}


@app.get("/orders")
def orders() -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(text("SELECT generate_series(1, 3)")))


@app.get("/orders/leaky")
def orders_leaky() -> list[int]:
    connection = engine.connect()  # LEAK
    numbers = list(connection.scalars(text("SELECT generate_series(1, 3)")))
    if numbers:
        return numbers  # the next line is never reached
    connection.close()
    return []


@app.get("/export")
def export() -> str:
    def work() -> None:
        with engine.connect() as connection:
            connection.execute(text("SELECT 'exported'"))

    return _run(work)


@app.get("/export/leaky")
def export_leaky() -> str:
    def work() -> None:
        exports["latest"] = connection = engine.connect()  # LEAK
        connection.execute(text("SELECT 'exported'"))

    return _run(work)


def _run(work) -> str:
    thread = threading.Thread(target=work, name="export")
    thread.start()
    thread.join()
    return "exported"
