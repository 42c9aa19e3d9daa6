"""Tests whose names say the verdict: those with ``leaks`` in it leak, the others do not."""

import os
import threading
import unittest

import psycopg
import psycopg_pool
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

DSN = os.environ["DSN"]
URL = DSN.replace("postgresql://", "postgresql+psycopg://")
KEPT = []
CLOSE_KEPT = True


def test_nothing():
    pass


# ------------------------------------------------------------------ direct connections


def test_direct():
    with psycopg.connect(DSN) as connection:
        connection.execute("SELECT 1")


def test_direct_leaks_by_drop():
    connection = psycopg.connect(DSN)
    connection.execute("SELECT 1")


def test_direct_leaks_by_keeping():
    KEPT.append(psycopg.connect(DSN))


def test_direct_leaks_in_a_cycle():
    class Node:
        pass

    node = Node()
    node.itself = node
    node.connection = psycopg.connect(DSN)


def test_exception_inside_with():
    with pytest.raises(ValueError):
        with psycopg.connect(DSN):
            raise ValueError


def test_exception_leaks_without_with():
    with pytest.raises(ZeroDivisionError):  # noqa: PT012
        KEPT.append(psycopg.connect(DSN))
        1 / 0  # noqa: B018


def test_generator_closed():
    def rows():
        with psycopg.connect(DSN) as connection:
            yield connection

    for _ in rows():
        break


def test_generator_kept_leaks():
    def rows():
        with psycopg.connect(DSN) as connection:
            yield connection

    generator = rows()
    next(generator)
    KEPT.append(generator)


def test_given_back_in_the_background():
    connection = psycopg.connect(DSN)
    threading.Timer(0.1, connection.close).start()


@pytest.mark.xfail(strict=True)
def test_expected_failure_leaks():
    KEPT.append(psycopg.connect(DSN))
    raise AssertionError


@pytest.mark.xfail(strict=True)
def test_expected_failure():
    with psycopg.connect(DSN):
        raise AssertionError


def test_skipped_leaks():
    KEPT.append(psycopg.connect(DSN))
    pytest.skip("half-way")


# ------------------------------------------------------------------ pools and engines

_engine = None
_engines = {}


def engine():
    """Created by the first who needs it, kept for the others."""
    global _engine
    if _engine is None:
        _engine = create_engine(URL)
    return _engine


def engine_by_name(name):
    if name not in _engines:
        _engines[name] = create_engine(URL)
    return _engines[name]


def test_lazy_engine():
    with engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def test_lazy_engine_leaks_checkout():
    KEPT.append(engine().connect())


def test_cached_engine():
    with engine_by_name("main").connect() as connection:
        connection.execute(text("SELECT 1"))


def test_engine_disposed():
    mine = create_engine(URL)
    with mine.connect() as connection:
        connection.execute(text("SELECT 1"))
    mine.dispose()


def test_engine_leaks_by_drop():
    mine = create_engine(URL)
    with mine.connect() as connection:
        connection.execute(text("SELECT 1"))


def test_engine_leaks_by_keeping():
    mine = create_engine(URL)
    KEPT.append(mine)
    with mine.connect() as connection:
        connection.execute(text("SELECT 1"))


def test_engine_never_connected():
    KEPT.append(create_engine(URL))


def test_nested_acquire():
    mine = create_engine(URL)
    with mine.connect(), mine.connect():
        pass
    mine.dispose()


def test_session():
    with Session(engine()) as session:
        session.execute(text("SELECT 1"))


def test_session_leaks():
    session = Session(engine())
    session.execute(text("SELECT 1"))
    KEPT.append(session)


def test_sqlite_engine():
    mine = create_engine("sqlite://")
    KEPT.append(mine)
    with mine.connect() as connection:
        connection.execute(text("SELECT 1"))


def test_pool():
    with psycopg_pool.ConnectionPool(DSN, min_size=1) as pool:
        with pool.connection() as connection:
            connection.execute("SELECT 1")


def test_pool_leaks_by_keeping():
    pool = psycopg_pool.ConnectionPool(DSN, min_size=1, open=True)
    pool.wait()
    KEPT.append(pool)


def test_pool_leaks_checkout():
    with psycopg_pool.ConnectionPool(DSN, min_size=1) as pool:
        KEPT.append(pool.getconn())


# ------------------------------------------------------------------ fixtures of functions, unittest, threads


@pytest.fixture
def connection():
    with psycopg.connect(DSN) as connection:
        yield connection


@pytest.fixture
def forgetful_connection():
    connection = psycopg.connect(DSN)
    KEPT.append(connection)
    return connection


def test_function_fixture(connection):
    connection.execute("SELECT 1")


def test_function_fixture_leaks(forgetful_connection):
    forgetful_connection.execute("SELECT 1")


class TestUnittest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.of_class = psycopg.connect(DSN)

    @classmethod
    def tearDownClass(cls):
        cls.of_class.close()

    def setUp(self):
        self.of_test = psycopg.connect(DSN)

    def tearDown(self):
        self.of_test.close()

    def test_case(self):
        self.of_test.execute("SELECT 1")

    def test_case_leaks(self):
        KEPT.append(psycopg.connect(DSN))


def test_thread():
    def work():
        with psycopg.connect(DSN):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_thread_leaks():
    thread = threading.Thread(target=lambda: KEPT.append(psycopg.connect(DSN)))
    thread.start()
    thread.join()


def test_live_thread_leaks(request):
    go = threading.Event()
    held = threading.Event()

    def work():
        with psycopg.connect(DSN):
            held.set()
            go.wait(10)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    held.wait(10)
    request.config.add_cleanup(go.set)


# ------------------------------------------------------------------ markers and the fixture


@pytest.mark.allow_leaks("ticket 12")
def test_allowed_without_limit():
    KEPT.append(psycopg.connect(DSN))
    KEPT.append(psycopg.connect(DSN))


@pytest.mark.leakguard(allow=1, reason="ticket 12")
def test_allowed_once():
    KEPT.append(psycopg.connect(DSN))


@pytest.mark.leakguard(allow=1, reason="ticket 12")
def test_allowed_once_leaks_twice():
    KEPT.append(psycopg.connect(DSN))
    KEPT.append(psycopg.connect(DSN))


@pytest.mark.leakguard(mode="warn")
def test_only_warned():
    KEPT.append(psycopg.connect(DSN))


@pytest.mark.leakguard(mode="off")
def test_off():
    KEPT.append(psycopg.connect(DSN))


def test_allowed_by_fixture(leakguard):
    assert leakguard.holds() == []
    connection = psycopg.connect(DSN)
    (hold,) = leakguard.holds()
    assert hold.owner.test.endswith("::test_allowed_by_fixture")
    leakguard.allow(connection, "listens for the whole session")
    KEPT.append(connection)
    assert leakguard.check() == []


def test_check_leaks(leakguard):
    psycopg.connect(DSN)
    assert [leak.kind for leak in leakguard.check()] == ["dropped"]
