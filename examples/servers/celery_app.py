"""Celery tasks with a pool of psycopg in each process of the prefork pool.

    export DATABASE_URL=postgresql://...
    cd examples/servers
    leakguard run -- celery -A celery_app worker --pool prefork --concurrency 2
    celery -A celery_app call celery_app.export_leaky

`export` is in order; `export_leaky` forgets the connection when there is nothing to export. The broker is a directory,
so that nothing else has to be started; a real application names its own.
"""

import os
import tempfile
from pathlib import Path

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from psycopg_pool import ConnectionPool

broker = Path(os.environ.get("BROKER_DIRECTORY", Path(tempfile.gettempdir(), "celery-broker")))
broker.mkdir(exist_ok=True)
app = Celery("shop", broker="filesystem://", backend=broker.as_uri())
app.conf.broker_transport_options = {"data_folder_in": broker, "data_folder_out": broker, "control_folder": broker}


# Open in each child, never in the process that forks them: a connection must not be shared.
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=4, name="exports", open=False)


@worker_process_init.connect
def open_pool(**_: object) -> None:
    pool.open()


@worker_process_shutdown.connect
def close_pool(**_: object) -> None:
    pool.close()


@app.task
def export(orders: int = 3) -> int:
    with pool.connection() as connection:
        return connection.execute("SELECT %s::int", [orders]).fetchone()[0]


@app.task
def export_leaky(orders: int = 0) -> int:
    connection = pool.getconn()  # LEAK
    if orders:
        connection.execute("SELECT %s::int", [orders])
        pool.putconn(connection)
    return orders
