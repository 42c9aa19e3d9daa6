"""A shop with a pool: its first argument says what it does with its connections, its second with how many.

It says "ready" and lives until its standard input is closed.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

DSN = os.environ["DATABASE_URL"]
kept: list[Any] = []


def export_orders(pool: ConnectionPool) -> None:
    conn = pool.getconn()  # LEAK
    conn.execute("SELECT 'a secret' AS name, 4711 AS number")
    kept.append(conn)


def leak(count: int) -> None:
    """Threads that take a connection, start a transaction, and end."""
    pool = ConnectionPool(DSN, min_size=0, max_size=10, open=True, name="orders")
    kept.append(pool)
    for number in range(count):
        thread = threading.Thread(target=export_orders, args=(pool,), name=f"export-{number}\x1b[31m\nforged: line")
        thread.start()
        thread.join()


def warm(count: int) -> None:
    """A pool that keeps its connections warm, and never uses them."""
    pool = ConnectionPool(DSN, min_size=count, max_size=count, open=True, name="warm")
    pool.wait()
    kept.append(pool)


def direct(count: int) -> None:
    """Connections without a pool, in use."""
    kept.extend(psycopg.connect(DSN, autocommit=True) for _ in range(count))  # DIRECT


{"leak": leak, "warm": warm, "direct": direct}[sys.argv[1]](int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.read()
