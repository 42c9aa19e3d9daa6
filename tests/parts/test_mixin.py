"""LeakGuardMixin: each unittest test is a boundary, under unittest's runner and pytest's, and the class is one too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import unittest
from pathlib import Path

import pytest

from leakguard import ConnectionLeakError, SettingsError
from leakguard.testing import LeakedInTest, LeakGuardMixin

pytestmark = pytest.mark.slow  # a process each

ROOT = Path(__file__).parents[2]

HEADER = """\
import asyncio, os, threading, unittest, warnings
import psycopg, sqlalchemy
from psycopg_pool import ConnectionPool, AsyncConnectionPool
import leakguard
from leakguard.testing import LeakGuardMixin

DSN = os.environ["TEST_DSN"]
URL = DSN.replace("postgresql://", "postgresql+psycopg://")
KEPT = []
warnings.simplefilter("ignore", ResourceWarning)

"""


@pytest.fixture
def run(tmp_path, dsn):
    """Runs a module of tests with unittest's runner; its exit status, and all that it said."""

    def run(body, *arguments, runner=("-m", "unittest", "-v")):
        (tmp_path / "suite.py").write_text(HEADER + textwrap.dedent(body))
        done = subprocess.run(
            [sys.executable, *runner, *(arguments or ("suite",))],
            cwd=tmp_path,
            env={**os.environ, "TEST_DSN": dsn, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    return run


def outcomes(said):
    """The names of the tests that failed, and the kinds of what was reported."""
    failed = re.findall(r"^(?:FAIL|ERROR): (\w+) \(", said, re.M)
    return sorted(failed), sorted(re.findall(r"^(?:leakguard\.testing\.LeakedInTest: )?LEAK (\w+)", said, re.M))


def line_of(mark, body):
    source = (HEADER + textwrap.dedent(body)).splitlines()
    return next(number for number, line in enumerate(source, 1) if f"# {mark}" in line)


LEAKS = """
    class Tests(LeakGuardMixin, unittest.TestCase):
        def setUp(self):
            self.early = psycopg.connect(DSN) if "setup" in self.id() else None  # SETUP

        def tearDown(self):
            if "torn" in self.id():
                self.conn.close()

        def test_clean(self):
            with psycopg.connect(DSN) as conn:
                conn.execute("SELECT 1")

        def test_touches_nothing(self):
            pass

        def test_torn_down(self):
            self.conn = psycopg.connect(DSN)

        def test_cleaned_up(self):
            conn = psycopg.connect(DSN)
            self.addCleanup(conn.close)

        def test_held(self):
            KEPT.append(psycopg.connect(DSN))  # HELD

        def test_dropped(self):
            psycopg.connect(DSN)  # DROPPED

        def test_in_a_cycle(self):
            holder = [psycopg.connect(DSN)]
            holder.append(holder)

        def test_setup_leaks(self):
            pass

        def test_skipped(self):
            KEPT.append(psycopg.connect(DSN))
            self.skipTest("later")

        @unittest.expectedFailure
        def test_expected_failure(self):
            KEPT.append(psycopg.connect(DSN))
            self.fail("as expected")

        def test_other_thread(self):
            def work():
                KEPT.append(psycopg.connect(DSN))
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()

        def test_given_back_by_a_thread(self):
            conn = psycopg.connect(DSN)
            threading.Timer(0.03, conn.close).start()

        @leakguard.no_leaks()
        def test_allowed(self):
            conn = psycopg.connect(DSN)
            KEPT.append(conn)
            leakguard.allow(conn, "it listens")
"""


def test_leaking_tests_fail_and_others_pass(run):
    """Every leaking test fails with its own report, whether it passed, was skipped or failed as expected; no other."""
    status, said = run(LEAKS)
    failed, _ = outcomes(said)
    assert failed == sorted(
        [
            "test_held",
            "test_dropped",
            "test_in_a_cycle",
            "test_setup_leaks",
            "test_skipped",
            "test_expected_failure",
            "test_other_thread",
        ]
    ), said
    assert status == 1
    assert "errors=" not in said.splitlines()[-1]
    assert f"suite.py:{line_of('HELD', LEAKS)}" in said
    assert "KEPT.append(psycopg.connect(DSN))" in said
    assert f"suite.py:{line_of('DROPPED', LEAKS)}" in said
    assert f"suite.py:{line_of('SETUP', LEAKS)}" in said
    assert 'test "suite.Tests.test_held"' in said
    assert "when the test had ended" in said
    assert "leakguard/testing.py" not in said, "the mixin's own frames are left out of the traceback"


def test_clean_class_says_nothing(run):
    """The clean twin: with pools, in every form, and no leakguard installed afterwards."""
    status, said = run(
        """
        class Tests(LeakGuardMixin, unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.pool = ConnectionPool(DSN, min_size=1, open=True)
                cls.conn = psycopg.connect(DSN)

            @classmethod
            def tearDownClass(cls):
                cls.conn.close()
                cls.pool.close()

            def test_one(self):
                self.conn.execute("SELECT 1")
                with self.pool.connection() as conn:
                    conn.execute("SELECT 1")

            test_two = test_one

            def test_engine(self):
                engine = sqlalchemy.create_engine(URL)
                with engine.connect() as conn:
                    conn.execute(sqlalchemy.text("SELECT 1"))
                engine.dispose()

        class Last(unittest.TestCase):
            def test_nothing_is_installed(self):
                from leakguard import runtime
                self.assertEqual(runtime.current().guards, [])
                self.assertFalse(hasattr(psycopg.Connection.connect, "__wrapped__"))
    """,
        "suite.Tests",
        "suite.Last",
    )
    assert (status, outcomes(said)[0]) == (0, []), said
    assert "Warning" not in said


def test_class_fixtures(run):
    """What setUpClass acquires is no test's leak; what it never gives back fails the class, after its cleanups."""
    body = """
        class Leaky(LeakGuardMixin, unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                cls.kept = psycopg.connect(DSN)  # CLASS
                cls.closed = psycopg.connect(DSN)
                cls.addClassCleanup(cls.closed.close)

            def test_one(self):
                self.kept.execute("SELECT 1")

            def test_two(self):
                self.closed.execute("SELECT 1")
    """
    status, said = run(body)
    assert status == 1
    assert re.findall(r"^(?:FAIL|ERROR): (.*)", said, re.M) == ["tearDownClass (suite.Leaky)"], said
    assert f"suite.py:{line_of('CLASS', body)}" in said
    assert "when Leaky had been torn down" in said
    assert said.count("suite.py:") == 1 + said.count("called from")


def test_pools_and_engines(run):
    """An engine that a test makes and forgets is its leak; a global one that it is the first to need is nobody's."""
    status, said = run("""
        class Tests(LeakGuardMixin, unittest.TestCase):
            def test_a_global_engine(self):
                global ENGINE
                ENGINE = sqlalchemy.create_engine(URL)
                with ENGINE.connect() as conn:
                    conn.execute(sqlalchemy.text("SELECT 1"))

            def test_b_uses_it(self):
                with ENGINE.connect() as conn:
                    conn.execute(sqlalchemy.text("SELECT 1"))

            def test_c_forgets_one(self):
                engine = sqlalchemy.create_engine(URL)
                with engine.connect() as conn:
                    conn.execute(sqlalchemy.text("SELECT 1"))
    """)
    assert status == 1
    assert outcomes(said)[0] == ["test_c_forgets_one"], said


def test_failed_tests_are_not_failed_twice(run):
    """A leak in a test that failed anyway is a warning: its traceback may be what holds the connection."""
    status, said = run("""
        class Tests(LeakGuardMixin, unittest.TestCase):
            def test_fails(self):
                conn = psycopg.connect(DSN)
                self.fail("itself")

            def test_breaks(self):
                conn = psycopg.connect(DSN)
                1 / 0
    """)
    assert status == 1
    assert "FAILED (failures=1, errors=1)" in said, said
    assert said.count("LeakWarning: ") == 2
    assert "LeakedInTest" not in said


def test_modes_and_allowance(run):
    """`leakguard_mode` and `leakguard_allow` are class attributes, inherited like others."""
    status, said = run("""
        class Base(LeakGuardMixin, unittest.TestCase):
            leakguard_mode = "warn"
            def test_it(self):
                KEPT.append(psycopg.connect(DSN))

        class Off(Base):
            leakguard_mode = "off"

        class Allowed(Base):
            leakguard_mode = "fail"
            leakguard_allow = 1

        class TooMany(Base):
            leakguard_mode = "fail"
            leakguard_allow = 1
            def test_it(self):
                super().test_it()
                super().test_it()
    """)
    assert status == 1
    assert re.findall(r"^(?:FAIL|ERROR): .*\((.*)\)", said, re.M) == ["suite.TooMany.test_it"], said
    assert said.count("LeakWarning: ") == 1


ASYNC = """
    async def fetch(pool, seconds=0.0):
        async with pool.connection() as conn:
            await asyncio.sleep(seconds)
            await conn.execute("SELECT 1")

    class Tests(LeakGuardMixin, unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self):
            self.pool = AsyncConnectionPool(DSN, min_size=1, max_size=4, open=False)
            await self.pool.open()
            self.addAsyncCleanup(self.pool.close)

        async def test_clean(self):
            await fetch(self.pool)

        async def test_given_back_by_a_task(self):
            self.task = asyncio.create_task(fetch(self.pool, 0.03))
            await asyncio.sleep(0)

        async def test_given_back_by_cancellation(self):
            self.conn = None
            async def listen():
                async with await psycopg.AsyncConnection.connect(DSN) as conn:
                    await asyncio.sleep(1000)
            self.task = asyncio.create_task(listen())
            await asyncio.sleep(0.05)

        async def test_held(self):
            KEPT.append(await self.pool.getconn())

        async def test_dropped(self):
            await psycopg.AsyncConnection.connect(DSN)

        async def test_task_that_is_cancelled_and_forgets(self):
            async def listen():
                KEPT.append(await psycopg.AsyncConnection.connect(DSN))
                await asyncio.sleep(1000)
            self.task = asyncio.create_task(listen())
            await asyncio.sleep(0.05)
"""


def test_asyncio(run):
    """IsolatedAsyncioTestCase: tasks get their time, and those that the loop cancels at its end get theirs."""
    status, said = run(ASYNC)
    assert status == 1
    failed, _ = outcomes(said)
    assert failed == ["test_dropped", "test_held", "test_task_that_is_cancelled_and_forgets"], said
    assert "when the test's event loop had ended" in said


def test_django(run):
    """Django's TestCase: its own connection stays open from test to test and is no leak; another one is."""
    pytest.importorskip("django")
    status, said = run("""
        import django
        from django.conf import settings
        from psycopg.conninfo import conninfo_to_dict
        known = conninfo_to_dict(DSN)
        settings.configure(
            DATABASES={"default": {
                "ENGINE": "django.db.backends.postgresql", "NAME": known["dbname"], "USER": known["user"],
                "HOST": known["host"], "PORT": known["port"], "PASSWORD": known.get("password", ""),
            }},
            INSTALLED_APPS=[],
        )
        django.setup()
        from django.db import connection
        from django.test import TestCase, TransactionTestCase

        class Tests(LeakGuardMixin, TestCase):
            @classmethod
            def setUpTestData(cls):
                connection.cursor().execute("SELECT 1")

            def test_clean(self):
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")

            def test_leaks(self):
                KEPT.append(psycopg.connect(DSN))

        class WithTransactions(LeakGuardMixin, TransactionTestCase):
            available_apps = []

            def test_first_query(self):
                connection.close()
                connection.cursor().execute("SELECT 1")
    """)
    assert status == 1
    assert outcomes(said)[0] == ["test_leaks"], said


def test_under_pytest(run):
    """pytest runs the same classes, with the same verdicts."""
    pytest_runner = ("-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider")
    status, said = run(LEAKS, "suite.py", runner=pytest_runner)
    assert status == 1
    failed = set(re.findall(r"^(?:FAILED|ERROR) suite\.py::Tests::(\w+)", said, re.M))
    assert {"test_held", "test_dropped", "test_in_a_cycle", "test_setup_leaks", "test_other_thread"} <= failed, said
    assert not failed & {
        "test_clean",
        "test_torn_down",
        "test_cleaned_up",
        "test_given_back_by_a_thread",
        "test_allowed",
    }


def test_with_leakguard_installed(run):
    """Where the application's guard is installed, the mixin uses it and leaves it."""
    status, said = run("""
        GUARD = leakguard.install(on_leak=lambda event: None)

        class Tests(LeakGuardMixin, unittest.TestCase):
            def test_leaks(self):
                KEPT.append(psycopg.connect(DSN))

            def test_still_installed(self):
                self.assertIn(GUARD, __import__("leakguard.runtime").runtime.current().guards)
    """)
    assert status == 1
    assert outcomes(said)[0] == ["test_leaks"], said


# ------------------------------------------------------------------------------------------- without a database


def test_one_test_run_by_hand():
    """A single test that nobody put into a suite is checked as well, and leaves nothing behind."""

    class Tests(LeakGuardMixin, unittest.TestCase):
        def test_it(self):
            pass

    result = unittest.TestResult()
    Tests("test_it").run(result)
    assert result.wasSuccessful()
    assert result.testsRun == 1
    assert Tests._leakguard_life is None


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"leakguard_mode": "strict"}, r"leakguard_mode = 'strict' is not accepted: \"fail\", \"warn\" or \"off\""),
        ({"leakguard_allow": -1}, "leakguard_allow = -1 is not accepted: how many"),
        ({"leakguard_allow": True}, "leakguard_allow = True is not accepted"),
    ],
)
def test_bad_options(attributes, words):
    """A wrong class attribute is refused where the class is defined."""
    with pytest.raises(SettingsError, match=words):
        type("Tests", (LeakGuardMixin, unittest.TestCase), attributes)


def test_wrong_order_of_bases():
    """Behind TestCase the mixin could see nothing: that is said instead of staying silent."""
    with pytest.raises(TypeError, match="LeakGuardMixin has to stand before TestCase"):
        type("Tests", (unittest.TestCase, LeakGuardMixin), {})


def test_the_failure():
    """It is a failed assertion, so that runners tell it as a failure and not as an error."""
    assert issubclass(LeakedInTest, AssertionError)
    assert issubclass(LeakedInTest, ConnectionLeakError)
