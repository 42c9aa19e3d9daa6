"""Integrations that other packages bring along, as entry points of the group ``leakguard.integrations``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import leakguard
from leakguard import libraries
from leakguard.integrations.dbapi import DBAPI
from tests.integrations.support import laboratory

ROOT = Path(__file__).parents[2]

DRIVER = """
    __version__ = "1.0"

    class Cursor:
        def __init__(self, connection):
            self.connection = connection

        def execute(self, operation, parameters=()):
            pass

    class Connection:
        def cursor(self):
            return Cursor(self)

        def close(self):
            pass

    def connect():
        return Connection()
"""
PLUG_IN = """
    from leakguard.integrations.dbapi import DBAPI, Version

    class MyDB(DBAPI):
        module = "plugged_db"
        library = "MyDB"
        versions = Version(lowest=(1,), below=(2,))
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory to install packages into."""

    class Site:
        path = tmp_path

        def module(self, name, source):
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

        def entry_point(self, name, value, package="mydb-leakguard"):
            metadata = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
            (metadata / "entry_points.txt").write_text(f"[leakguard.integrations]\n{name} = {value}\n")

    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    site = Site()
    site.module("plugged_db", DRIVER)
    yield site
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "leakguard"]


def leak():
    import plugged_db

    plugged_db.connect().cursor().execute("SELECT 1")


def test_found_by_its_driver(site):
    """It is loaded when its driver is imported, not before, and reports under its own name."""
    site.module("mydb_leakguard", PLUG_IN)
    site.entry_point("plugged_db", "mydb_leakguard:MyDB")
    with laboratory() as lab:
        assert "mydb_leakguard" not in sys.modules
        leak()
        assert "mydb_leakguard" in sys.modules
        lab.collect()
        assert lab.only("dropped", mark=None).hold.library == "MyDB"


def test_driver_imported_before(site):
    """Also where the driver was there first; and what it patched is put back."""
    site.module("mydb_leakguard", PLUG_IN)
    site.entry_point("plugged_db", "mydb_leakguard:MyDB")
    import plugged_db

    before = dict(vars(plugged_db.Connection))
    with laboratory() as lab:
        leak()
        lab.collect()
        lab.only("dropped", mark=None)
    assert dict(vars(plugged_db.Connection)) == before


def test_an_instance(site):
    """The entry point may name an instance, too."""
    site.module("mydb_leakguard", "from leakguard.integrations.dbapi import DBAPI\ninstance = DBAPI('plugged_db')")
    site.entry_point("plugged_db", "mydb_leakguard:instance")
    with laboratory() as lab:
        leak()
        lab.collect()
        assert lab.only("dropped", mark=None).hold.library == "plugged_db"


@pytest.mark.parametrize(
    ("source", "value", "why"),
    [
        ("import no_such_module", "mydb_leakguard:MyDB", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("1/0", "mydb_leakguard:MyDB", "ZeroDivisionError: division by zero"),
        ("", "mydb_leakguard:MyDB", "AttributeError"),
        ("class MyDB:\n    def __init__(self): 1/0", "mydb_leakguard:MyDB", "ZeroDivisionError: division by zero"),
        ("MyDB = 7", "mydb_leakguard:MyDB", "TypeError: int is no integration: it has no module, or no install()"),
        ("class MyDB:\n    module = 'plugged_db'", "mydb_leakguard:MyDB", "AttributeError"),
        ("MyDB = 7", "mydb_leakguard:", ""),
    ],
)
def test_that_cannot_be_loaded(site, caplog, source, value, why):
    """One line names it and says why, once in a process; it is skipped, and everything else goes on."""
    site.module("mydb_leakguard", source)
    site.entry_point("plugged_db", value)
    with laboratory() as lab:
        leak()
        lab.nothing()
        lab.guard.uninstall()
        leakguard.install().uninstall()
    (text,) = said(caplog)
    assert text.startswith(f"leakguard: the integration for plugged_db ({value} of mydb-leakguard) could not be loaded")
    assert why in text
    assert "\n" not in text


def test_that_fails_to_install(site, caplog):
    """An error in its install() is counted and logged, and what it had patched is put back."""
    site.module(
        "mydb_leakguard",
        """
        class Half:
            module, versions = "plugged_db", None

            def install(self, runtime, patches):
                import plugged_db

                patches.replace(plugged_db, "connect", lambda original: None)
                raise ZeroDivisionError
        """,
    )
    site.entry_point("plugged_db", "mydb_leakguard:Half")
    with laboratory(errors=1):
        leak()
    assert "internal error in plugged_db.install" in caplog.text


def test_unsupported_version(site, caplog):
    """The range is named, and the driver stays unwatched."""
    site.module("plugged_db", DRIVER.replace("1.0", "7.1"))
    site.module("mydb_leakguard", PLUG_IN)
    site.entry_point("plugged_db", "mydb_leakguard:MyDB")
    with laboratory() as lab:
        leak()
        lab.nothing()
    assert said(caplog)[0].startswith("leakguard watches plugged_db >=1,<2; this is 7.1, which stays unwatched.")


def test_ours_come_first(site, caplog):
    """A plug-in for a library that leakguard watches itself is not asked."""
    site.module("mydb_leakguard", "1/0")
    site.entry_point("sqlite3", "mydb_leakguard:MyDB")
    import sqlite3

    with laboratory():
        conn = sqlite3.connect(":memory:")
        assert leakguard.holds()[0].library == "sqlite3"
        conn.close()
    assert said(caplog) == []


def test_the_setting_comes_first(site):
    """What the application names itself beats what a package brings along."""
    site.module("mydb_leakguard", PLUG_IN)
    site.entry_point("plugged_db", "mydb_leakguard:MyDB")
    with laboratory(integrations=[DBAPI("plugged_db", library="mine")]) as lab:
        leak()
        lab.collect()
        assert lab.only("dropped", mark=None).hold.library == "mine"


def test_broken_metadata(site):
    """Metadata of other packages that nobody can read is no obstacle."""
    (site.path / "broken-1.0.dist-info").write_text("a file where a directory belongs")
    (site.path / "other-1.0.dist-info").mkdir()
    (site.path / "other-1.0.dist-info" / "entry_points.txt").write_text("leakguard.integrations is not an ini file")
    with laboratory():
        pass


@pytest.mark.slow
def test_under_run(site):
    """`leakguard run` needs nothing else: the installed plug-in is enough."""
    site.module("mydb_leakguard", PLUG_IN)
    site.entry_point("plugged_db", "mydb_leakguard:MyDB")
    site.module("app", "import plugged_db\ndef main():\n    plugged_db.connect()\nmain()\n")
    path = os.pathsep.join([str(site.path), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    ran = subprocess.run(
        [sys.executable, "-m", "leakguard", "run", "--fail", "--", sys.executable, str(site.path / "app.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 3, ran.stderr
    assert "app.py:3" in ran.stderr


def test_no_plug_in_costs_no_import():
    """Where no package brings an integration along, the reader of metadata is not even imported."""
    program = "import sys, leakguard\nleakguard.install()\nprint('importlib.metadata' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert ran.stdout.strip() == "False", ran.stderr


def test_documented_ranges():
    """The page names the versions that each integration admits."""
    page = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| ([\w.]+) \| (?:`(.+?)`|any.*?) \|", page, re.MULTILINE))
    for name, module in libraries.MODULES.items():
        versions = libraries._integration(name).versions
        assert told.pop(module) == ("" if versions is None else str(versions))
    assert told == {}
