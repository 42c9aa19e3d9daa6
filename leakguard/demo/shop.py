"""A little order service, as healthy as can be: three pools, customers who order, browse and restock all the time.

The bugs are planted next door, in ``bugs.py``; what only looks like one is in ``lookalikes.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from sqlalchemy import Connection, Engine, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import leakguard

ORDER_SLOTS: Final = 6
"""Connections of the pool that takes the orders: exactly as many as the bugs take away from it."""

Result = TypeVar("Result")


class Base(DeclarativeBase):
    """The tables."""


class Product(Base):
    """What is sold. `price` is in cents."""

    __tablename__ = "product"

    sku: Mapped[str] = mapped_column(primary_key=True)
    price: Mapped[int]
    stock: Mapped[int]


class Order(Base):
    """What was ordered."""

    __tablename__ = "customer_order"

    id: Mapped[int] = mapped_column(primary_key=True)
    sku: Mapped[str]
    quantity: Mapped[int]


class Shop:
    """The service. `open()` starts its staff and its traffic, `close()` ends all of it.

    `orders` is the psycopg pool of the order desk, `backoffice` a synchronous engine for ORM and reports, `web` an
    asynchronous one. `kept` is where careless code keeps connections that nobody will ask for again. `closing` is set
    when everybody has to go home.
    """

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        address = dsn.removeprefix("postgresql")
        self.sqlalchemy_url = f"postgresql+psycopg{address}"
        driver = "asyncpg" if importlib.util.find_spec("asyncpg") else "psycopg"
        self.orders = ConnectionPool(dsn, min_size=1, max_size=ORDER_SLOTS, timeout=1.0, name="orders", open=False)
        self.backoffice: Engine = create_engine(self.sqlalchemy_url, pool_size=8, max_overflow=0)
        self.web: AsyncEngine = create_async_engine(f"postgresql+{driver}{address}", pool_size=4, max_overflow=0)
        self.kept: list[object] = []
        self.orders_taken = 0
        self.turned_away = 0
        self.closing = threading.Event()
        self._web_open = threading.Event()
        self._web_loop: asyncio.AbstractEventLoop
        self._staff = ThreadPoolExecutor(max_workers=6, thread_name_prefix="staff")
        self._jobs: list[Future[object]] = []
        customers = [threading.Thread(target=self._order_and_order, name=f"customer-{n}") for n in (1, 2)]
        self._threads = [
            *customers,
            threading.Thread(target=self._restock_and_restock, name="storekeeper"),
            threading.Thread(target=lambda: asyncio.run(self._serve_web()), name="web"),
        ]

    def open(self) -> None:
        """Make the tables, fill the shelves, let the customers in."""
        Base.metadata.create_all(self.backoffice)
        with Session(self.backoffice) as session, session.begin():
            session.add_all(Product(sku=sku, price=price, stock=50) for sku, price in (("tea", 450), ("pot", 3900)))
        self.orders.open(wait=True)
        for thread in self._threads:
            thread.start()
        self._web_open.wait()

    def close(self) -> None:
        """Send everybody home and give back every connection, the forgotten ones too. Raises what a job has raised."""
        self.closing.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        self._staff.shutdown()
        for thing in self.kept:
            if isinstance(thing, psycopg.Connection | Connection | Session):
                thing.close()
        self.orders.close()
        self.backoffice.dispose()
        for job in self._jobs:
            job.result()

    def hand_to_staff(self, job: Callable[[Shop], object]) -> Future[object]:
        """Run `job` on one of the staff's threads, which stay until the shop closes."""

        def work() -> object:
            with leakguard.label(job=job.__name__):
                return job(self)

        future = self._staff.submit(work)
        self._jobs.append(future)
        return future

    def hand_to_web(self, job: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run `job` as a task of the web front end's event loop."""
        return asyncio.run_coroutine_threadsafe(job, self._web_loop)

    def _order_and_order(self) -> None:
        while not self.closing.wait(0.02):
            try:
                take_order(self, "tea")
                self.orders_taken += 1
            except PoolTimeout:
                self.turned_away += 1

    def _restock_and_restock(self) -> None:
        while not self.closing.wait(0.05):
            with Session(self.backoffice) as session, session.begin():
                for product in session.scalars(select(Product)):
                    product.stock = 50

    async def _serve_web(self) -> None:
        self._web_loop = asyncio.get_running_loop()
        self._web_open.set()
        visits = 0
        while not self.closing.is_set():
            await browse(self)
            visits += 1
            if visits % 10 == 0:
                gc.collect()  # a big program does so all by itself, all the time; this one has little garbage
            await asyncio.sleep(0.02)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.web.dispose(), 5.0)


def take_order(shop: Shop, sku: str) -> None:
    """How it is done: the block gives the connection back, whatever happens in it."""
    with shop.orders.connection() as connection:
        connection.execute("INSERT INTO customer_order (sku, quantity) VALUES (%s, 1)", (sku,))


async def browse(shop: Shop) -> int:
    """Look at what there is."""
    async with shop.web.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM product"))).scalar_one())
