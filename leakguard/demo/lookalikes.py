"""What looks like a leak and is none: leakguard has to stay silent about all of it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import text

import leakguard
from leakguard.demo.shop import Shop


@dataclass(frozen=True, slots=True, kw_only=True)
class LookAlike:
    """Something that is in order: what the shop does, in the words of its log, and why it is no leak."""

    story: str
    run: Callable[[Shop], object]
    title: str
    function: str


def listen_for_orders(shop: Shop) -> None:
    """Held from morning to night, and on purpose: so we say so."""
    connection = shop.backoffice.connect()
    leakguard.allow(connection, "listens for new orders as long as the shop is open")
    connection.execute(text("LISTEN new_order"))
    connection.commit()
    shop.kept.append(connection)


def monthly_report(shop: Shop) -> None:
    """A query that takes longer than anything else here may; it has a limit of its own."""
    with leakguard.expect_long("the monthly report", threshold=60.0), shop.backoffice.connect() as connection:
        connection.execute(text("SELECT pg_sleep(3)"))


def hand_over(shop: Shop) -> None:
    """Another thread has taken the connection, and has ended long before this one is done with it."""
    desk: queue.SimpleQueue[psycopg.Connection[Any]] = queue.SimpleQueue()
    waiter = threading.Thread(target=take_and_go, args=(shop, desk), name="waiter")
    waiter.start()
    waiter.join()
    connection = desk.get()
    for _ in range(4):
        connection.execute("SELECT sku FROM product")
        time.sleep(0.35)
    connection.commit()
    shop.orders.putconn(connection)


def take_and_go(shop: Shop, desk: queue.SimpleQueue[psycopg.Connection[Any]]) -> None:
    """The first half of a `hand_over`."""
    desk.put(shop.orders.getconn())


LOOK_ALIKES: Final = (
    LookAlike(
        story="somebody listens for new orders, all day",
        run=lambda shop: shop.hand_to_staff(listen_for_orders).result(),
        title="LISTEN, with leakguard.allow()",
        function="listen_for_orders",
    ),
    LookAlike(
        story="the monthly report runs for seconds",
        run=lambda shop: shop.hand_to_staff(monthly_report),
        title="slow query, with leakguard.expect_long()",
        function="monthly_report",
    ),
    LookAlike(
        story="the waiter hands a connection to the cook, and goes home",
        run=lambda shop: shop.hand_to_staff(hand_over),
        title="connection handed to another thread",
        function="take_and_go",
    ),
)
