"""The generic integration: pg8000 on PostgreSQL, PyMySQL on MariaDB where there is one, and made-up drivers."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
import types
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict

import leakguard
from leakguard import SettingsError
from leakguard.integrations.dbapi import DBAPI, Version
from tests.integrations.support import in_thread, laboratory, until, url_for

pg8000 = pytest.importorskip("pg8000")
from pg8000.dbapi import connect as connect_by_name  # noqa: E402  # bound before leakguard is installed

ROOT = Path(__file__).parents[2]

# A dropped socket warns by itself.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def parameters(dsn):
    """Where the database is, as pg8000 wants to be told."""
    given = conninfo_to_dict(dsn)
    return {
        "user": given["user"],
        "host": given["host"],
        "port": int(given["port"]),
        "database": given["dbname"],
        "password": given.get("password"),
    }


@pytest.fixture
def lab():
    """leakguard, installed with the generic integration for pg8000."""
    with laboratory(integrations=["pg8000.dbapi"]) as lab:
        yield lab


class TestPg8000:
    def drop(self, parameters):
        conn = pg8000.dbapi.connect(**parameters)  # LEAK
        conn.cursor().execute("SELECT 1")

    def test_dropped(self, lab, parameters):
        """A connection that is garbage-collected open is reported, under the name of the driver."""
        self.drop(parameters)
        lab.collect()
        leak = lab.only("dropped")
        assert (leak.hold.library, leak.hold.operation, leak.pool) == ("pg8000", "connect", None)
        assert "with contextlib.closing(connect(...))" in leak.advice
        assert [frame.app for frame in leak.hold.stack if "pg8000" in frame.file] == [False]

    def test_closed(self, lab, parameters):
        """Its clean twins, by `closing()`, and by a `connect` that was imported by name."""
        for connect in (pg8000.dbapi.connect, connect_by_name):
            with closing(connect(**parameters)) as conn:
                conn.cursor().execute("SELECT 1")
        with pytest.raises(pg8000.InterfaceError):
            conn.close()  # a second time
        del conn
        lab.nothing()
        assert lab.counts() == (2, 2, 0, 0)

    def test_what_is_told(self, lab, parameters):
        """State, statements (those of `executemany()` are one) and the latest of them, without its values."""
        with closing(pg8000.dbapi.connect(**parameters)) as conn:
            cursor = conn.cursor()
            assert leakguard.holds()[0].state == "idle"
            cursor.execute("SELECT %s, 'hush'", ("secret",))
            cursor.executemany("SELECT %s", [("secret",), ("secret",)])
            (hold,) = leakguard.holds()
            assert (hold.statements, hold.last_statement, hold.state) == (2, "SELECT %s", "in_transaction")
            assert hold.site.function == "test_what_is_told"
            assert "secret" not in repr(hold)
            conn.commit()
            assert leakguard.holds()[0].state == "idle"

    def test_active(self, lab, parameters, kill):
        """While a statement runs, the hold is active; the server ends it, and close() ends the hold."""
        conn = pg8000.dbapi.connect(**parameters)
        cursor = conn.cursor()
        cursor.execute("SELECT pg_backend_pid()")
        (pid,) = cursor.fetchone()

        def sleep():
            with contextlib.suppress(Exception):
                cursor.execute("SELECT pg_sleep(60)")

        thread = threading.Thread(target=sleep)
        thread.start()
        until(lambda: leakguard.holds()[0].state == "active")
        kill(pid)
        thread.join(10)
        with contextlib.suppress(Exception):
            conn.close()
        assert leakguard.holds() == []

    def test_used_by_another_thread(self, lab, parameters):
        """Whoever uses it becomes its owner; unused, it is an orphan."""
        conn, cursor = in_thread(lambda: (conn := pg8000.dbapi.connect(**parameters), conn.cursor()))  # LEAK
        for _ in range(5):
            lab.advance(4)
            cursor.execute("SELECT 1")
            lab.advance(4)
            conn.rollback()
        assert lab.kinds == []
        conn.close()
        kept = in_thread(lambda: pg8000.dbapi.connect(**parameters))  # LEAK
        lab.advance(6)
        lab.only("orphaned")
        kept.close()

    def test_refused(self, lab, parameters):
        """The server is full: the exception says who fills it."""
        held = []

        def take_all():
            while True:
                held.append(pg8000.dbapi.connect(**parameters))  # LEAK

        with pytest.raises(pg8000.Error) as raised:
            take_all()
        for conn in held:
            conn.close()
        assert f"{len(held)} x held" in raised.value.__notes__[0]
        lab.runtime.beat()
        assert lab.refusals[0].cause in ("server", "reserved")

    def test_below_sqlalchemy(self, dsn):
        """Only SQLAlchemy's checkout is a hold, and each statement is counted once."""
        with laboratory(integrations=["pg8000"]) as lab:
            engine = sa.create_engine(url_for(dsn, "pg8000"))
            with engine.connect() as conn:
                conn.execute(sa.text("SELECT 1"))
                (hold,) = leakguard.holds()
                assert (hold.library, hold.statements, hold.state) == ("sqlalchemy", 1, "in_transaction")
            engine.dispose()
            del engine, conn
            lab.nothing()
            assert lab.counts() == (1, 1, 0, 0)

    def test_raise_from_the_next_connect(self, parameters):
        """With `on_leak="raise"` the next connect raises what was found, once."""
        with laboratory(on_leak="raise", integrations=["pg8000.dbapi"]) as lab:
            self.drop(parameters)
            lab.collect()
            with pytest.raises(leakguard.ConnectionLeakError):
                pg8000.dbapi.connect(**parameters)
            pg8000.dbapi.connect(**parameters).close()

    def test_undo(self, parameters):
        """The driver's classes are what they were, also those of its cursors, which are patched at their first use."""
        classes = pg8000.dbapi.Connection, pg8000.dbapi.Cursor, pg8000.core.CoreConnection
        before = [dict(vars(cls)) for cls in classes]
        with laboratory(integrations=["pg8000.dbapi"]):
            conn = pg8000.dbapi.connect(**parameters)
            conn.cursor().execute("SELECT 1")
            assert [dict(vars(cls)) for cls in classes] != before
        assert [dict(vars(cls)) for cls in classes] == before
        conn.cursor().execute("SELECT 1")
        conn.close()

    def test_looks_the_same(self):
        """Patched methods have the name, docstring and signature of the original."""
        import inspect

        names = "__init__", "close", "cursor", "commit"

        def looks():
            methods = [getattr(pg8000.dbapi.Connection, name) for name in names]
            return [(method.__qualname__, method.__doc__, inspect.signature(method)) for method in methods]

        before = looks()
        with laboratory(integrations=["pg8000.dbapi"]):
            assert looks() == before

    def test_given_later(self, parameters):
        """install() while leakguard is installed adds what it names, and only that."""
        with laboratory() as lab:
            self.drop(parameters)
            lab.collect()
            assert lab.kinds == []
            leakguard.install(integrations=["pg8000.dbapi", "psycopg"])
            self.drop(parameters)
            lab.collect()
            lab.only("dropped")


# ---------------------------------------------------------------------------------------------------- MariaDB


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory):
    """A MariaDB server with room for ten connections; what PyMySQL needs to know of it."""
    pytest.importorskip("pymysql")
    server, installer = shutil.which("mariadbd"), shutil.which("mariadb-install-db")
    if server is None or installer is None:
        pytest.skip("needs MariaDB (Debian: mariadb-server)")
    folder = tmp_path_factory.mktemp("mariadb")
    common = ["--no-defaults", f"--datadir={folder}/data", f"--user={getpass.getuser()}"]
    quiet = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([installer, *common, *quiet], check=True, capture_output=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--bind-address=127.0.0.1", f"--port={port}"]
    small = ["--max-connections=10", "--innodb-buffer-pool-size=8M", "--skip-log-bin"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([server, *common, *where, *small], stdout=log, stderr=log)
    try:
        until(lambda: b"ready for connections" in (folder / "log").read_bytes(), "MariaDB")
        yield {"host": "127.0.0.1", "port": port, "user": "root", "database": "mysql"}
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def mysql_lab(mariadb):
    with laboratory(integrations=[DBAPI("pymysql", opens="connect")]) as lab:
        yield lab


@pytest.mark.slow
class TestPyMySQL:
    def test_dropped(self, mysql_lab, mariadb):
        """A connection that is garbage-collected open is reported."""
        import pymysql

        def leak():
            conn = pymysql.connect(**mariadb)  # LEAK
            conn.cursor().execute("SELECT 1")

        leak()
        mysql_lab.collect()
        assert mysql_lab.only("dropped").hold.library == "pymysql"

    def test_clean(self, mysql_lab, mariadb):
        """`with pymysql.connect()` closes, `defer_connect=True` opens nothing, who reconnects has to close again."""
        import pymysql

        with pymysql.connect(**mariadb) as conn, conn.cursor() as cursor:
            cursor.execute("SELECT 1")
        pymysql.connect(**mariadb, defer_connect=True)
        assert mysql_lab.counts() == (1, 1, 0, 0)
        conn.connect()
        conn.ping()
        assert mysql_lab.counts() == (2, 1, 1, 0)
        conn.close()
        del conn, cursor
        mysql_lab.nothing()

    @pytest.mark.parametrize("cursor", ["Cursor", "DictCursor", "SSCursor"])
    def test_what_is_told(self, mysql_lab, mariadb, cursor):
        """Server, state, statements and the latest of them, by every class of cursor."""
        import pymysql

        with closing(pymysql.connect(**mariadb, cursorclass=getattr(pymysql.cursors, cursor))) as conn:
            conn.begin()
            with conn.cursor() as made:
                made.execute("SELECT %s, 'hush'", ("secret",))
                made.fetchall()
            (hold,) = leakguard.holds()
            assert (hold.server.host, hold.server.port) == ("127.0.0.1", mariadb["port"])
            assert (hold.server.user, hold.server.dbname) == ("root", "mysql")
            assert (hold.statements, hold.last_statement, hold.state) == (1, "SELECT %s, ?", "in_transaction")
            assert "secret" not in repr(hold)

    def test_server_hangs_up(self, mysql_lab, mariadb):
        """A connection that the server ended, and whose owner has noticed, is open no more."""
        import pymysql

        conn = pymysql.connect(**mariadb)
        with pymysql.connect(**mariadb) as other:
            other.kill(conn.thread_id())
        with pytest.raises(pymysql.err.OperationalError):
            conn.cursor().execute("SELECT 1")
        assert leakguard.holds() == []
        del conn, other
        mysql_lab.nothing()

    def test_refused(self, mysql_lab, mariadb):
        """The server is full: the exception says who fills it, and an event that it is the server."""
        import pymysql

        held = []

        def take_all():
            while True:
                held.append(pymysql.connect(**mariadb))  # LEAK

        with pytest.raises(pymysql.err.OperationalError) as raised:
            take_all()
        for conn in held:
            conn.close()
        assert f"{len(held)} x held" in raised.value.__notes__[0]
        mysql_lab.runtime.beat()
        assert [event.cause for event in mysql_lab.refusals] == ["server"]

    def test_below_sqlalchemy(self, mysql_lab, mariadb):
        """Only SQLAlchemy's checkout is a hold, and each statement is counted once."""
        engine = sa.create_engine(
            sa.URL.create("mysql+pymysql", username="root", host="127.0.0.1", port=mariadb["port"])
        )
        with engine.connect() as conn:
            conn.execute(sa.text("SELECT 1"))
            (hold,) = leakguard.holds()
            assert (hold.library, hold.statements) == ("sqlalchemy", 1)
        engine.dispose()
        del engine, conn
        mysql_lab.nothing()


# ---------------------------------------------------------------------------------------------------- made-up drivers


MYDB = """
__version__ = "1.5"

class Cursor:
    def __init__(self, connection):
        self.link = connection

    def execute(self, operation, parameters=()):
        if operation == "fail":
            self.link.closed = True
            raise RuntimeError("the server hung up")

    def executemany(self, operation, parameters):
        for one in parameters:
            self.execute(operation, one)

class LoudCursor(Cursor):
    def execute(self, operation, parameters=()):
        super().execute(operation.upper(), parameters)

class Connection:
    closed = False

    def __init__(self, password="hush", later=False):
        if password == "wrong":
            raise RuntimeError("sorry, too many clients already")
        self.password = password
        self.closed = later

    def cursor(self, cls=Cursor):
        return cls(self)

    def commit(self):
        pass

    def close(self):
        self.closed = True

connect = Connection
"""


@pytest.fixture
def mydb():
    """A driver of the simplest kind, imported."""
    module = types.ModuleType("mydb")
    sys.modules["mydb"] = module
    exec(MYDB, vars(module))
    yield module
    del sys.modules["mydb"]


class TestMadeUp:
    def test_one_line(self, mydb):
        """A module's name is enough."""
        with laboratory(integrations=["mydb"]) as lab:
            conn = mydb.connect()
            conn.cursor().executemany("INSERT", [1, 2, 3])
            conn.cursor(mydb.LoudCursor).execute("select")
            hold = leakguard.holds()[0]
            assert (hold.library, hold.statements, hold.last_statement) == ("mydb", 2, "select")
            conn.close()
            mydb.connect()
            lab.collect()
            lab.only("dropped", mark=None)

    def test_imported_later(self, mydb, tmp_path, monkeypatch):
        """The integration waits for the import."""
        (tmp_path / "later_db.py").write_text("from mydb import *\nfrom mydb import Connection\n")
        monkeypatch.syspath_prepend(tmp_path)
        with laboratory(integrations=["later_db"]) as lab:
            import later_db

            later_db.Connection()
            lab.collect()
            assert lab.only("dropped", mark=None).hold.library == "later_db"
        del sys.modules["later_db"]

    def test_arguments(self, mydb):
        """The library's name, the class, the opening method and the versions can be given."""
        mydb.Session = mydb.Connection
        del mydb.Connection
        integration = DBAPI(
            "mydb", library="my", connection="mydb.Session", versions=Version(lowest=(1,), below=(2,)), opens="__init__"
        )
        assert repr(integration) == "DBAPI('mydb')"
        with laboratory(integrations=[integration]) as lab:
            mydb.Session()
            lab.collect()
            assert lab.only("dropped", mark=None).hold.library == "my"

    def test_subclass(self, mydb):
        """A plug-in is a small class; what it overrides is asked."""

        class MyDB(DBAPI):
            module = "mydb"
            embedded = True

            def state(self, connection):
                return "in_error"

        with laboratory(integrations=MyDB()) as lab:
            conn = mydb.connect()
            assert leakguard.holds()[0].state == "in_error"
            conn.close()
            lab.nothing()

    def test_hung_up(self, mydb):
        """An error after which the connection says that it is closed ends a direct hold."""
        with laboratory(integrations=["mydb"]):
            conn = mydb.connect()
            with pytest.raises(RuntimeError):
                conn.cursor().execute("fail")
            assert leakguard.holds() == []

    def test_refused(self, mydb):
        """A refusal is recognised by its words, whoever raises it."""
        with laboratory(integrations=["mydb"]) as lab:
            conn = mydb.connect()
            with pytest.raises(RuntimeError) as raised:
                mydb.connect("wrong")
            assert "1 connection(s) held" in raised.value.__notes__[0]
            lab.runtime.beat()
            assert [refusal.cause for refusal in lab.refusals] == ["server"]
            conn.close()

    def test_opened_later(self, mydb):
        """A connection that says that it is closed when it has been made is no hold, and no leak."""
        with laboratory(integrations=["mydb"]) as lab:
            mydb.connect(later=True)
            lab.nothing()
            assert lab.counts() == (0, 0, 0, 0)

    def test_nothing_secret(self, mydb):
        """Of a connection's attributes only those of a few names are read."""
        with laboratory(integrations=["mydb"]):
            conn = mydb.connect()
            conn.host, conn.user = "db", b"shop"
            hold = leakguard.holds()[0]
            assert (hold.server.host, hold.server.user, hold.server.port) == ("db", "shop", None)
            assert "hush" not in repr(hold)
            conn.close()

    def test_undo_of_what_is_learned_late(self, mydb):
        """A cursor class that is first seen after the end is left alone, if another tool still calls our wrapper."""
        with laboratory(integrations=["mydb"]):
            theirs = mydb.Connection.cursor
            mydb.Connection.cursor = lambda self, *args: theirs(self, *args)
        before = dict(vars(mydb.Cursor))
        mydb.connect().cursor().execute("SELECT 1")
        assert dict(vars(mydb.Cursor)) == before

    def test_fault_in_a_subclass(self, mydb, caplog):
        """What a plug-in does wrong is counted and logged, and the application goes on."""

        class Broken(DBAPI):
            def server(self, connection):
                raise ZeroDivisionError

        with laboratory(errors=1, integrations=[Broken("mydb")]):
            mydb.connect().close()
        assert "internal error in mydb.connect" in caplog.text


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "leakguard"]


class TestRefusals:
    def test_no_such_class(self, mydb, caplog):
        """One line says what to give, once in a process."""
        del mydb.Connection
        with laboratory(integrations=["mydb"]) as lab:
            lab.guard.configure(integrations=["mydb"])
        (text,) = said(caplog)
        assert text == (
            "leakguard cannot watch mydb: there is no class mydb.Connection. Say which class its connections are of: "
            'DBAPI("mydb", connection="package.module.Class")'
        )

    def test_no_such_module(self, mydb, caplog):
        """Likewise where the class is said to be in a module that is not there."""
        with laboratory(integrations=[DBAPI("mydb", connection="mydb.nowhere.Connection")]):
            pass
        assert "there is no class mydb.nowhere.Connection" in said(caplog)[0]

    def test_written_in_c(self, mydb, caplog):
        """A class that cannot be patched is left as it is, wholly."""
        mydb.Connection = type("Half", (), {"close": None, "cursor": None})
        before = dict(vars(mydb.Connection))
        with laboratory(integrations=[DBAPI("mydb", connection="datetime.date")]):
            pass
        assert "leakguard cannot watch mydb, because it cannot patch datetime.date" in said(caplog)[0]
        assert "an integration of its own" in said(caplog)[0]
        with laboratory(integrations=[DBAPI("mydb", opens="nowhere")]):
            pass
        assert dict(vars(mydb.Connection)) == before

    def test_version(self, mydb, caplog):
        """An unsupported version is named with the supported range, and stays unwatched."""
        with laboratory(integrations=[DBAPI("mydb", versions=Version(lowest=(2,), below=(3,)))]) as lab:
            mydb.connect()
            lab.nothing()
        (text,) = said(caplog)
        assert text.startswith("leakguard watches mydb >=2,<3; this is 1.5, which stays unwatched.")

    def test_unknown_version(self, mydb, caplog):
        """Where there is a range, a version that cannot be told is none of it."""
        del mydb.__version__
        with laboratory(integrations=[DBAPI("mydb", versions=Version(lowest=(0,), below=(3,)))]):
            pass
        assert "this is unknown" in said(caplog)[0]

    def test_no_module(self):
        """DBAPI() without a module says what it needs."""
        with pytest.raises(SettingsError, match="needs the name of a module"):
            DBAPI()

    @pytest.mark.parametrize(
        "value", [[DBAPI], [7], ["no module"], [object()], {"mydb"}], ids=["class", "number", "text", "object", "set"]
    )
    def test_setting(self, value):
        """The class instead of its instance, and what is no integration at all."""
        with pytest.raises(SettingsError, match=r"integrations=.* is not accepted: names of drivers' modules"):
            leakguard.install(integrations=value)


def test_by_environment(parameters, tmp_path):
    """`LEAKGUARD_INTEGRATIONS` points `leakguard run` at a driver: the program knows nothing of it."""
    program = tmp_path / "app.py"
    program.write_text(
        f"import pg8000.dbapi\ndef f():\n    pg8000.dbapi.connect(**{parameters!r}).cursor().execute('SELECT 1')\nf()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "leakguard", "run", "--fail", "--", sys.executable, str(program)],
        env={**os.environ, "LEAKGUARD_INTEGRATIONS": "pg8000.dbapi", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 3, ran.stderr
    assert "app.py:3" in ran.stderr
