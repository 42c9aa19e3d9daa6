"""Fixtures whose names say the verdict: those with ``leaks`` in it leak; no test of this file does."""

import concurrent.futures
import os
import threading
import time

import psycopg
import psycopg_pool
import pytest
from sqlalchemy import create_engine, text

DSN = os.environ["DSN"]
KEPT = []


@pytest.fixture(scope="session")
def of_session():
    with psycopg.connect(DSN) as connection:
        yield connection


@pytest.fixture(scope="session")
def of_session_leaks():
    return psycopg.connect(DSN)


@pytest.fixture(scope="module")
def of_module(of_session):
    with psycopg.connect(DSN) as connection:
        yield connection


@pytest.fixture(scope="module")
def of_module_leaks(of_module):
    return psycopg.connect(DSN)


@pytest.fixture(scope="module", autouse=True)
def unasked():
    connection = psycopg.connect(DSN)
    yield
    connection.close()


@pytest.fixture(scope="module", params=["a", "b"])
def one_of_two_leaks(request):
    connection = psycopg.connect(DSN)
    yield connection
    if request.param == "a":
        connection.close()


@pytest.fixture(scope="module")
def leaks_in_teardown():
    yield
    KEPT.append(psycopg.connect(DSN))


@pytest.fixture(scope="module")
def by_finalizer(request):
    connection = psycopg.connect(DSN)
    request.addfinalizer(connection.close)  # noqa: PT021 - the other way to do it
    return connection


@pytest.fixture(scope="module")
def by_name():
    with psycopg.connect(DSN) as connection:
        yield connection


@pytest.fixture(scope="module")
def pool():
    with psycopg_pool.ConnectionPool(DSN, min_size=1) as pool:
        yield pool


def test_session_fixtures(of_session, of_session_leaks):
    of_session.execute("SELECT 1")


def test_module_fixtures(of_module, of_module_leaks):
    of_module.execute("SELECT 1")


def test_again(of_module, of_module_leaks, of_session):
    of_module.execute("SELECT 1")


def test_parametrized(one_of_two_leaks):
    one_of_two_leaks.execute("SELECT 1")


def test_teardown(leaks_in_teardown):
    pass


def test_finalizer(by_finalizer):
    by_finalizer.execute("SELECT 1")


def test_asked_by_name(request):
    request.getfixturevalue("by_name").execute("SELECT 1")


def test_pool_of_module(pool):
    with pool.connection() as connection:
        connection.execute("SELECT 1")


class TestXunit:
    @classmethod
    def setup_class(cls):
        cls.connection = psycopg.connect(DSN)

    @classmethod
    def teardown_class(cls):
        cls.connection.close()

    def test_one(self):
        self.connection.execute("SELECT 1")

    def test_two(self):
        self.connection.execute("SELECT 1")


class App:
    """Creates its engine when it is first needed: by some test, for all of them."""

    _engine = None

    @property
    def engine(self):
        if self._engine is None:
            self._engine = create_engine(DSN.replace("postgresql://", "postgresql+psycopg://"))
        return self._engine


@pytest.fixture(scope="session")
def app():
    app = App()
    yield app
    app.engine.dispose()


def test_lazy_engine_of_fixture(app):
    with app.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def test_lazy_engine_of_fixture_again(app):
    with app.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


# ------------------------------------------------------------------ threads that are older than the test


@pytest.fixture(scope="module")
def poller():
    """Holds a connection most of the time, whatever test runs."""
    stop = threading.Event()

    def poll():
        while not stop.is_set():
            with psycopg.connect(DSN):
                stop.wait(0.8)

    thread = threading.Thread(target=poll)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_beside_poller(poller):
    time.sleep(0.3)


def test_beside_poller_again(poller):
    time.sleep(0.3)


@pytest.fixture(scope="module")
def executor():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def test_through_executor(executor):
    def work():
        with psycopg.connect(DSN):
            pass

    executor.submit(work).result()
