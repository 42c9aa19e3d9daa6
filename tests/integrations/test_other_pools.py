"""Pools of packages that have no integration, and pools that the application has made itself."""

from __future__ import annotations

import importlib
import sys
import textwrap
from functools import partial

import psycopg
import psycopg2
import pytest

import leakguard
from tests.integrations.support import in_thread

POOL = """
    class Pool:
        def __init__(self, connect):
            self.connect, self.idle = connect, []

        def take(self):
            return self.idle.pop() if self.idle else self.connect()

        def give(self, connection):
            self.idle.append(connection)

    def run(job):
        return job()
"""

drivers = pytest.mark.parametrize("driver", [psycopg, psycopg2], ids=lambda module: module.__name__)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts the pool below `folder`, as the module `name`, and imports it."""

    def put(folder, name):
        file = tmp_path / folder / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True)
        file.write_text(textwrap.dedent(POOL))
        monkeypatch.syspath_prepend(str(tmp_path / folder))
        module = importlib.import_module(name)
        monkeypatch.delitem(sys.modules, name)
        return module

    return put


def serve_one_request(pool):
    """In a thread that ends; the connection stays open, in the pool."""

    def request():
        connection = pool.take()
        connection.cursor().execute("SELECT 1")
        connection.rollback()
        pool.give(connection)

    in_thread(request)


@drivers
def test_what_an_installed_pool_opens_is_the_pools(lab, dsn, package, driver):
    """The request's thread has ended, and the connection is idle: nobody's leak."""
    pool = package("site-packages", "lake.pooled").Pool(partial(driver.connect, dsn))
    serve_one_request(pool)
    lab.advance(2000)
    assert leakguard.holds() == []
    assert leakguard.check() == []
    for connection in pool.idle:
        connection.close()
    lab.nothing()


@drivers
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        pytest.param("site-packages", "lake.sessions", id="a package without a pool"),
        pytest.param("src", "shop.pool", id="a pool of the application's own"),
        pytest.param("site-packages", "loky.pool", id="a pool of processes"),
    ],
)
def test_what_other_code_opens_is_judged(lab, dsn, package, driver, folder, name):
    """Nothing tells such a list of idle connections from one that is forgotten."""
    pool = package(folder, name).Pool(partial(driver.connect, dsn))
    serve_one_request(pool)
    lab.advance(2000)
    assert lab.only("orphaned", mark=None).hold.library == driver.__name__
    for connection in pool.idle:
        connection.close()


@drivers
def test_what_the_application_opens_inside_a_pool_of_workers_is_judged(lab, dsn, package, driver):
    """Only what stands between the driver and the application counts."""
    workers = package("site-packages", "hands.pool")
    kept = in_thread(lambda: workers.run(lambda: driver.connect(dsn)))
    lab.advance(2000)
    assert lab.only("orphaned", mark=None).hold.library == driver.__name__
    kept.close()
