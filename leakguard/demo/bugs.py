"""The planted bugs. Each of them has been written for real, by good people, and got through review.

``PLANTED`` says what leakguard has to make of each. A bug is known by the function that takes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from leakguard.demo.shop import Product, Shop
from leakguard.model import Kind

EXPORT_SECONDS: Final = 3.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """One bug: what the shop does, in the words of its log, and as what (and where) leakguard has to report it.

    `run` is the innocent caller. `count` is how many connections leak, `also` the suspicions that the same hold may
    raise besides, `recovers` whether it is given back in the end.
    """

    story: str
    run: Callable[[Shop], object]
    title: str
    function: str
    kind: Kind
    count: int = 1
    also: frozenset[Kind] = frozenset()
    recovers: bool = False


class OutOfStockError(Exception):
    """There is less on the shelf than the customer wants."""


# ------------------------------------------------------------------------------------------ the pool of the order desk


def place_order(shop: Shop, sku: str, quantity: int) -> None:
    """The error leaves through the door that has no putconn()."""
    connection = shop.orders.getconn()
    row = connection.execute("SELECT stock FROM product WHERE sku = %s", (sku,)).fetchone()
    if row is None or quantity > row[0]:
        raise OutOfStockError(sku)
    connection.execute("INSERT INTO customer_order (sku, quantity) VALUES (%s, %s)", (sku, quantity))
    connection.commit()
    shop.orders.putconn(connection)


def order_too_much(shop: Shop) -> None:
    """Two customers who want 900 teapots each."""
    for _ in range(2):
        with contextlib.suppress(OutOfStockError):
            place_order(shop, "pot", 900)


def count_open_orders(shop: Shop) -> int:
    """The block commits, but it does not give back: that is what ``pool.connection()`` is for."""
    with shop.orders.getconn() as connection:
        row = connection.execute("SELECT count(*) FROM customer_order").fetchone()
    return int(row[0]) if row else 0


def print_receipt(shop: Shop) -> None:
    """close() shuts the pool's connection, and the pool waits for it to come back."""
    connection = shop.orders.getconn()
    receipt = connection.execute("SELECT sku, price FROM product")
    connection.close()
    shop.kept.append(receipt)


def connection_of_this_thread(shop: Shop, cache: dict[int, psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
    """One connection a thread, kept for the next call: nobody thought of the day when the thread ends."""
    ident = threading.get_ident()
    if ident not in cache:
        cache[ident] = shop.orders.getconn()
    return cache[ident]


def track_parcels(shop: Shop) -> None:
    """Two parcels, each in a thread of its own."""
    cache: dict[int, psycopg.Connection[Any]] = {}
    both_out = threading.Barrier(2)

    def track() -> None:
        connection_of_this_thread(shop, cache).execute("SELECT 'on its way'")
        both_out.wait()

    threads = [threading.Thread(target=track, name=f"parcel-{n}") for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shop.kept.extend(cache.values())


# -------------------------------------------------------------------------------------------- the back office's engine


def show_basket(shop: Shop) -> None:
    """A session that lives as long as the page: its transaction is open, and keeps locks and old rows alive."""
    session = Session(shop.backoffice)
    session.scalars(select(Product)).all()
    shop.kept.append(session)


def leave_basket_open(shop: Shop) -> None:
    """The page stays open, and so does its thread."""
    show_basket(shop)
    shop.closing.wait()


def export_sales(shop: Shop) -> None:
    """Takes the connection first, and then the time to upload."""
    with shop.backoffice.connect() as connection:
        connection.execute(text("SELECT sku, quantity FROM customer_order")).all()
        connection.rollback()
        time.sleep(EXPORT_SECONDS)  # the upload


def copy_catalogue(shop: Shop) -> int:
    """detach() takes the connection out of the pool: from here on, closing it is up to us."""
    connection = shop.backoffice.connect()
    connection.detach()
    return len(connection.execute(text("SELECT sku FROM product")).all())


def cancel_order(shop: Shop) -> None:
    """Writes the audit trail on a second connection while it holds the first: fine, until everybody does so at once."""
    with shop.backoffice.begin() as connection:
        connection.execute(text("DELETE FROM customer_order WHERE id = 1"))
        write_audit_trail(shop, "order 1 cancelled")


def write_audit_trail(shop: Shop, words: str) -> None:
    """Must survive a rollback, hence a connection of its own."""
    with shop.backoffice.connect() as connection:
        connection.execute(text("SELECT :words"), {"words": words})


def convert_currency(shop: Shop) -> int:
    """An engine for one request. It goes; its pool's connection to the server stays until the collector comes by."""
    engine = create_engine(shop.sqlalchemy_url, pool_size=1)
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT price * 11 / 10 FROM product WHERE sku = 'tea'")).scalar_one())


# ------------------------------------------------------------------------------------ the night job, the web front end


def import_prices(shop: Shop) -> None:
    """A connection of its own, because it is only a little script."""
    connection = psycopg.connect(shop.dsn)
    connection.execute("UPDATE product SET price = price WHERE sku = 'tea'")
    connection.commit()


async def charge_card(shop: Shop, asked: asyncio.Event) -> None:
    """Waits for the bank with a connection in its hand, and without a ``finally``."""
    connection = await shop.web.connect()
    await connection.execute(text("SELECT price FROM product WHERE sku = 'tea'"))
    asked.set()
    await asyncio.sleep(60.0)  # the bank
    await connection.close()


async def give_up_paying(shop: Shop) -> None:
    """The customer closes the browser, and the framework cancels the task."""
    asked = asyncio.Event()
    task = asyncio.create_task(charge_card(shop, asked), name="checkout-4711")
    await asked.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


PLANTED: Final = (
    Planted(
        story="the accountant exports the sales, and the upload is slow",
        run=lambda shop: shop.hand_to_staff(export_sales),
        title="checkout held during an upload",
        function="export_sales",
        kind="overdue",
        recovers=True,
    ),
    Planted(
        story="a customer looks into her basket and goes for lunch",
        run=lambda shop: shop.hand_to_staff(leave_basket_open),
        title="ORM session left in its transaction",
        function="show_basket",
        kind="idle_in_transaction",
        also=frozenset({"overdue"}),
    ),
    Planted(
        story="two customers order 900 teapots: out of stock, sorry",
        run=lambda shop: shop.hand_to_staff(order_too_much).result(),
        title="error path forgets putconn()",
        function="place_order",
        kind="dropped",
        count=2,
    ),
    Planted(
        story="the boss asks how many orders there are",
        run=lambda shop: shop.hand_to_staff(count_open_orders).result(),
        title="with pool.getconn() as connection",
        function="count_open_orders",
        kind="dropped",
    ),
    Planted(
        story="cron starts the price import",
        run=lambda shop: shop.hand_to_staff(import_prices).result(),
        title="script forgets close()",
        function="import_prices",
        kind="dropped",
    ),
    Planted(
        story="somebody wants to pay in crowns",
        run=lambda shop: shop.hand_to_staff(convert_currency).result(),
        title="engine per request, never disposed",
        function="convert_currency",
        kind="unclosed_pool",
    ),
    Planted(
        story="an order is cancelled",
        run=lambda shop: shop.hand_to_staff(cancel_order).result(),
        title="second checkout while holding the first",
        function="write_audit_trail",
        kind="nested_acquire",
    ),
    Planted(
        story="a customer closes the browser while the bank thinks",
        run=lambda shop: shop.hand_to_web(give_up_paying(shop)).result(),
        title="async checkout of a cancelled task",
        function="charge_card",
        kind="dropped",
    ),
    Planted(
        story="the catalogue is copied",
        run=lambda shop: shop.hand_to_staff(copy_catalogue).result(),
        title="detached connection never closed",
        function="copy_catalogue",
        kind="dropped",
    ),
    Planted(
        story="a receipt is printed",
        run=lambda shop: shop.hand_to_staff(print_receipt).result(),
        title="close() on a pool's connection",
        function="print_receipt",
        kind="lost_slot",
    ),
    Planted(
        story="two parcels are tracked",
        run=lambda shop: shop.hand_to_staff(track_parcels).result(),
        title="thread ended, its connection in a dict",
        function="connection_of_this_thread",
        kind="orphaned",
        count=2,
    ),
)
"""In the order in which they happen: the slow ones first, and last the one that takes the order desk's last slots."""
