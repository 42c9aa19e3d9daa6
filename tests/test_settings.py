"""The settings: which source wins, what is accepted, and what a refusal says."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import pytest

import leakguard.settings as module
from leakguard.errors import LeakguardError, SettingsError
from leakguard.model import Event
from leakguard.settings import IgnorePattern, Settings, resolve, to_environ

NAMES = tuple(Settings.__dataclass_fields__)


class Collector:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an empty pyproject.toml, so that nothing above it is found."""
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def configure(project: Path, table: str) -> Path:
    """Write the lines of a ``[tool.leakguard]`` table and return the file."""
    path = project / "pyproject.toml"
    path.write_text(f"[tool.leakguard]\n{table}\n")
    return path


def refused(
    keywords: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    directory: Path = Path("/"),
    source: str = "keyword",
) -> str:
    """The text of the refusal, which has to be one printable line."""
    with pytest.raises(SettingsError) as caught:
        resolve(keywords or {}, environ=environ or {}, directory=directory, source=source)
    text = str(caught.value)
    assert text.isprintable()
    assert text.startswith("leakguard: ")
    return text


# --- sources ---------------------------------------------------------------------------------------------------------


def test_defaults(project: Path) -> None:
    """Without any source the defaults are those of the contract."""
    settings = resolve({}, environ={}, directory=project)
    assert settings == Settings()
    assert settings == Settings(
        enabled=True,
        threshold=60.0,
        idle_in_transaction=60.0,
        owner_grace=5.0,
        on_leak=("log",),
        report=None,
        stacks="auto",
        app_packages=(),
        ignore=(),
    )


def test_precedence(project: Path) -> None:
    """A keyword beats the environment, which beats the file, which beats the default, setting by setting."""
    configure(project, "threshold = 1\nidle_in_transaction = 1\nowner_grace = 1")
    environ = {"LEAKGUARD_THRESHOLD": "2", "LEAKGUARD_IDLE_IN_TRANSACTION": "2"}
    settings = resolve({"threshold": 3}, environ=environ, directory=project)
    assert (settings.threshold, settings.idle_in_transaction, settings.owner_grace) == (3.0, 2.0, 1.0)
    assert settings.stacks == "auto"


def test_process_environment_and_working_directory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default the process's own environment and working directory are read."""
    configure(project, "stacks = 'full'")
    monkeypatch.chdir(project)
    monkeypatch.setenv("LEAKGUARD_OWNER_GRACE", "0.25")
    settings = resolve({})
    assert (settings.stacks, settings.owner_grace) == ("full", 0.25)


def test_nearest_file(project: Path) -> None:
    """The nearest pyproject.toml at or above the directory counts, even where it says nothing about leakguard."""
    configure(project, "threshold = 1")
    deep = project / "src" / "shop"
    deep.mkdir(parents=True)
    assert resolve({}, environ={}, directory=deep).threshold == 1.0
    (project / "src" / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    assert resolve({}, environ={}, directory=deep).threshold == 60.0


def test_directory_called_pyproject_is_no_file(project: Path) -> None:
    """A directory of the name pyproject.toml is passed over."""
    configure(project, "threshold = 1")
    (project / "inner" / "pyproject.toml").mkdir(parents=True)
    assert resolve({}, environ={}, directory=project / "inner").threshold == 1.0


def test_base(project: Path) -> None:
    """With a base, the keywords are applied on top of it and neither environment nor file is read again."""
    configure(project, "nonsense = 1")
    base = Settings(threshold=1.0, stacks="site")
    settings = resolve({"stacks": "off"}, environ={"LEAKGUARD_THRESHOLD": "x"}, directory=project, base=base)
    assert settings == Settings(threshold=1.0, stacks="off")
    assert base.stacks == "site"


@pytest.mark.parametrize(
    ("spelling", "value"),
    [
        ("tool.leakguard.threshold = 7", 7.0),
        ("[tool]\nleakguard = {threshold = 7}", 7.0),
        ('[tool."leakguard"]\nthreshold = 7', 7.0),
        ("tool = 'not a table, leakguard'", 60.0),
        ("[project]\ndependencies = ['leakguard']", 60.0),
    ],
)
def test_table_in_every_spelling(project: Path, spelling: str, value: float) -> None:
    """The table is found however TOML lets it be written, and its absence is no error."""
    (project / "pyproject.toml").write_text(spelling)
    assert resolve({}, environ={}, directory=project).threshold == value


@pytest.mark.parametrize("content", [b"[tool.other\n", b"\xff\xfe", b"# leakguard\n[tool.other\n", b"a" * 100_000])
def test_broken_file_of_somebody_else(project: Path, content: bytes) -> None:
    """A broken pyproject.toml that has no table of ours is not our business."""
    (project / "pyproject.toml").write_bytes(content)
    assert resolve({}, environ={}, directory=project) == Settings()


@pytest.mark.parametrize("content", [b"[tool.leakguard]\nthreshold = \n", b"[tool.leakguard]\n# \xff\n"])
def test_broken_file_with_our_table(project: Path, content: bytes) -> None:
    """A broken pyproject.toml that has our table is refused with its path."""
    path = project / "pyproject.toml"
    path.write_bytes(content)
    assert f"{path} [tool.leakguard] cannot be read, it is not valid TOML: " in refused(directory=project)


def test_table_that_is_no_table(project: Path) -> None:
    """`tool.leakguard` has to be a table."""
    path = project / "pyproject.toml"
    path.write_text("[tool]\nleakguard = 3")
    assert refused(directory=project) == f"leakguard: leakguard=3 ({path} [tool]) is not accepted: a table of settings"


def test_table_of_the_pytest_plugin(project: Path) -> None:
    """The sub-table of the pytest plugin is left alone."""
    configure(project, "threshold = 1\n[tool.leakguard.pytest]\nmode = 'warn'")
    assert resolve({}, environ={}, directory=project).threshold == 1.0


def test_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a working directory there is no file, and only a relative report cannot be accepted."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert resolve({}, environ={}) == Settings()
    assert resolve({"report": "/r.jsonl"}, environ={}).report == Path("/r.jsonl")
    with pytest.raises(SettingsError, match=r"report='r\.jsonl'"):
        resolve({"report": "r.jsonl"}, environ={})


@pytest.mark.parametrize("value", ["", " ", "\t\n"])
@pytest.mark.parametrize("name", NAMES)
def test_empty_variable_is_not_set(project: Path, name: str, value: str) -> None:
    """An empty environment variable is one that is not set."""
    assert resolve({}, environ={f"LEAKGUARD_{name.upper()}": value}, directory=project) == Settings()


def test_lone_comma_is_the_empty_list(project: Path) -> None:
    """The environment can take back a list that the file sets."""
    configure(project, "ignore = ['file=x.py']")
    assert resolve({}, environ={"LEAKGUARD_IGNORE": ","}, directory=project).ignore == ()


# --- what does not exist ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variable",
    [
        "LEAKGUARD_PORT",
        "LEAKGUARD_PORT_80_TCP",
        "LEAKGUARD_PORT_80_TCP_ADDR",
        "LEAKGUARD_PORT_80_TCP_PROTO",
        "LEAKGUARD_SERVICE_HOST",
        "LEAKGUARD_SERVICE_PORT",
        "LEAKGUARD_SERVICE_PORT_HTTP",
        "LEAKGUARD_REPORT_PORT_80_TCP",
        "LEAKGUARD_REPORT_SERVICE_HOST",
        "LEAKGUARD_",
        "LEAKGUARDTHRESHOLDS",
    ],
)
def test_foreign_variables_are_ignored(project: Path, variable: str) -> None:
    """What Kubernetes sets for a service called leakguard, or leakguard-report, is ignored."""
    assert resolve({}, environ={variable: "tcp://10.0.0.1:80"}, directory=project) == Settings()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("LEAKGUARD_TRESHOLD", "LEAKGUARD_THRESHOLD"),
        ("LEAKGUARD_REPORTS", "LEAKGUARD_REPORT"),
        ("LEAKGUARD_REPROT", "LEAKGUARD_REPORT"),
        ("LEAKGUARD_ONLEAK", "LEAKGUARD_ON_LEAK"),
        ("LEAKGUARD_IDLE_TRANSACTION", "LEAKGUARD_IDLE_IN_TRANSACTION"),
        ("LEAKGUARD_ignore", "LEAKGUARD_IGNORE"),
    ],
)
def test_misspelt_variable(project: Path, variable: str, meant: str) -> None:
    """A variable that is nearly a setting is refused, with the name that was meant; an empty one is not set."""
    assert refused(environ={variable: "1"}, directory=project).endswith(
        f"='1' (environment variable {variable}) is not accepted: there is no such setting, did you mean {meant}?"
    )
    assert resolve({}, environ={variable: ""}, directory=project) == Settings()


def test_unknown_keyword() -> None:
    """An unknown keyword is refused with the nearest name, or with all of them."""
    assert refused({"treshold": 5}) == (
        "leakguard: treshold=5 (keyword) is not accepted: there is no such setting, did you mean threshold?"
    )
    assert refused({"x": 5}).endswith(f"there is no such setting, the settings are {', '.join(NAMES)}")


def test_unknown_key_in_the_file(project: Path) -> None:
    """An unknown key in our table is refused with its file."""
    path = configure(project, "owner-grace = 5")
    assert refused(directory=project) == (
        f"leakguard: owner-grace=5 ({path} [tool.leakguard]) is not accepted: "
        "there is no such setting, did you mean owner_grace?"
    )


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, 1, "true", "TRUE", " yes ", "on", "1"])
def test_enabled(value: object) -> None:
    """Every word for true is true."""
    assert resolve({"enabled": value}, base=Settings(enabled=False)).enabled is True


@pytest.mark.parametrize("value", [False, 0, "false", "False", "no", "off", "0"])
def test_disabled(value: object) -> None:
    """Every word for false is false."""
    assert resolve({"enabled": value}, base=Settings()).enabled is False


@pytest.mark.parametrize("name", ["threshold", "idle_in_transaction"])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [(0.5, 0.5), (3, 3.0), ("0.5", 0.5), (" 1e3 ", 1000.0), (None, None), ("off", None), ("None", None)],
)
def test_limits(name: str, value: object, seconds: float | None) -> None:
    """A limit is a number of seconds or off, and always comes out as a float."""
    result = getattr(resolve({name: value}, base=Settings()), name)
    assert result == seconds
    assert type(result) in (float, type(None))


def test_owner_grace_may_be_zero() -> None:
    """No grace is a grace."""
    assert resolve({"owner_grace": 0}, base=Settings()).owner_grace == 0.0


def test_limits_from_every_source(project: Path) -> None:
    """``off`` means the same in a keyword, a variable and the file."""
    configure(project, "idle_in_transaction = 'off'")
    settings = resolve({}, environ={"LEAKGUARD_THRESHOLD": "off"}, directory=project)
    assert (settings.threshold, settings.idle_in_transaction) == (None, None)


def test_on_leak() -> None:
    """What happens on a leak: words, reporters, callables, alone or mixed, in the order given."""
    collector, seen = Collector(), list[Event]()
    for given, expected in [
        ("log", ("log",)),
        (" RAISE ", ("raise",)),
        (collector, (collector,)),
        (collector.report, (collector.report,)),
        (["raise", collector, seen.append, "log"], ("raise", collector, seen.append, "log")),
        (("log",), ("log",)),
    ]:
        assert resolve({"on_leak": given}, base=Settings()).on_leak == expected
    assert resolve({}, environ={"LEAKGUARD_ON_LEAK": "log, raise"}, directory=Path("/")).on_leak == ("log", "raise")


def test_report_is_absolute_when_it_is_given(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report stays where it was asked for, whatever directory the application changes to."""
    monkeypatch.chdir(project)
    for given in ("leaks-%p.jsonl", Path("leaks-%p.jsonl")):
        settings = resolve({"report": given}, environ={})
        monkeypatch.chdir("/")
        assert settings.report == project / "leaks-%p.jsonl"
        assert settings.report_path(4242) == project / "leaks-4242.jsonl"
        monkeypatch.chdir(project)


def test_report_path_without_a_report() -> None:
    """No report has no path."""
    assert Settings().report_path(1) is None


@pytest.mark.parametrize("value", ["auto", "full", "site", "off", " FULL "])
def test_stacks(value: str) -> None:
    """There are four ways to record stacks."""
    assert resolve({"stacks": value}, base=Settings()).stacks == value.strip().lower()


@pytest.mark.parametrize(
    ("value", "names"),
    [("shop", ("shop",)), (["shop", " a.b "], ("shop", "a.b")), (("a",), ("a",)), ([], ()), (None, ())],
)
def test_app_packages(value: object, names: tuple[str, ...]) -> None:
    """Import names, one or several."""
    assert resolve({"app_packages": value}, base=Settings()).app_packages == names


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ({"pool=reports": 600}, ["pool=reports:600.0"]),
        ({"pool=reports": "off", "file=jobs/*.py": "Learned"}, ["pool=reports:off", "file=jobs/*.py:learned"]),
        (["pool=a: 2.5 ", "function=nightly:none"], ["pool=a:2.5", "function=nightly:off"]),
        ("pool=http://x:8", ["pool=http://x:8.0"]),
        ({}, []),
        (None, []),
    ],
)
def test_thresholds(value: object, texts: list[str]) -> None:
    """A mapping or texts; the seconds stand after the last colon."""
    settings = resolve({"thresholds": value}, base=Settings())
    assert [str(own) for own in settings.thresholds] == texts
    assert resolve({"thresholds": texts}, base=Settings()).thresholds == settings.thresholds


@pytest.mark.parametrize(
    "value",
    [
        "pool=reports",
        "reports:600",
        "pool=reports:0",
        "pool=:600",
        "fingerprint=8f21*:9",
        {"pool=a": True},
        {1: 2},
        600,
    ],
)
def test_refused_thresholds(value: object) -> None:
    """No pattern, no seconds, or a pattern that no checkout has while it is judged."""
    assert "each with seconds above 0" in refused({"thresholds": value})


def test_thresholds_in_the_file(project: Path) -> None:
    """A table of its own, in its order."""
    configure(project, 'threshold = "learned"\n[tool.leakguard.thresholds]\n"pool=reports" = 600\n"pool=*" = "off"')
    settings = resolve({}, environ={}, directory=project)
    assert (settings.threshold, settings.learns) == ("learned", True)
    assert [str(own) for own in settings.thresholds] == ["pool=reports:600.0", "pool=*:off"]


def test_lists_in_the_environment(project: Path) -> None:
    """Lists in the environment are comma separated; blanks and empty items do not count."""
    environ = {"LEAKGUARD_APP_PACKAGES": " shop, shop.orders ,,", "LEAKGUARD_IGNORE": "file=a.py,pool=b*"}
    settings = resolve({}, environ=environ, directory=project)
    assert settings.app_packages == ("shop", "shop.orders")
    assert settings.ignore == (IgnorePattern(field="file", glob="a.py"), IgnorePattern(field="pool", glob="b*"))


def test_ignore() -> None:
    """Patterns come as text or ready made, alone or in a list; the glob may hold an equals sign or a comma."""
    ready = IgnorePattern(field="function", glob="f")
    settings = resolve({"ignore": [ready, " file = a=b,c.py "]}, base=Settings())
    assert settings.ignore == (ready, IgnorePattern(field="file", glob="a=b,c.py"))
    assert resolve({"ignore": ready}, base=Settings()).ignore == (ready,)
    assert resolve({"ignore": "pool=p"}, base=Settings()).ignore == (IgnorePattern(field="pool", glob="p"),)
    assert resolve({"ignore": None}, base=Settings(ignore=(ready,))).ignore == ()


async def _async_reporter(event: Event) -> None: ...


class _AsyncReporter:
    async def report(self, event: Event) -> None: ...


LIMIT_WORDS = 'seconds as a number above 0, or "off"'
BAD: list[tuple[str, object]] = [
    *(("enabled", value) for value in (None, 2, -1, "maybe", "", ["true"], 0.5)),
    *(
        (name, value)
        for name in ("threshold", "idle_in_transaction", "owner_grace")
        for value in (
            True,
            False,
            -1,
            -0.5,
            math.nan,
            math.inf,
            "nan",
            "-inf",
            "abc",
            "",
            "1s",
            [1],
            {1: 1},
            b"1",
            10**400,
        )
    ),
    *((name, value) for name in ("threshold", "idle_in_transaction") for value in (0, 0.0, -0.0, "0", "0.0", "false")),
    *(("owner_grace", value) for value in (None, "off", "none")),
    *(("on_leak", value) for value in ((), None, "", "warn", 3, ["log", "x"], ["log", None], {"log"}, [["log"]])),
    *(("on_leak", value) for value in (Collector, [Collector], _async_reporter, _AsyncReporter(), object(), [])),
    *((name, value) for name in ("report", "incident_dir") for value in ("", "  ", 3, b"x", "a\0b", ["a"], True)),
    *(("live", value) for value in ("maybe", 2, None, [])),
    *(("stacks", value) for value in (None, "", "none", "all", True, 1, ["auto"])),
    *(("app_packages", value) for value in ("my-app", "a,b", "", "a..b", ".a", "1a", 3, [3], ["a", None], {"a"})),
    *(("ignore", value) for value in ("x.py", "", "file=", "=x", "line=3", 3, [None], ["file=a", 3], {"file": "a"})),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values(name: str, value: object) -> None:
    """Whatever is not accepted is refused by name, value, source and accepted values; nothing is clamped."""
    text = refused({name: value})
    assert text.startswith(f"leakguard: {name}=")
    assert " (keyword) is not accepted: " in text


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("THRESHOLD", "abc", f'{LIMIT_WORDS}, or "learned"'),
        ("IDLE_IN_TRANSACTION", "0", LIMIT_WORDS),
        ("OWNER_GRACE", "off", "seconds as a number, 0 or above"),
        ("ENABLED", "maybe", "true or false (1, 0, yes, no, on, off)"),
        ("STACKS", "all", '"auto", "full", "site" or "off"'),
        ("REPORT", "a\0", "the path of a file"),
        ("APP_PACKAGES", "shop,my-app", 'import names such as "shop" or "shop.orders"'),
        ("IGNORE", "a.py", 'patterns "file=...", "function=...", "pool=..." or "fingerprint=..."'),
        (
            "ON_LEAK",
            ",",
            '"log", "raise" or (as a keyword only) a reporter, a function that is not async, or a list of them',
        ),
    ],
)
def test_text_of_a_refusal(project: Path, variable: str, value: str, words: str) -> None:
    """A refusal says in one line which setting, which value as it was given, where from, and what is accepted."""
    assert refused(environ={f"LEAKGUARD_{variable}": value}, directory=project) == (
        f"leakguard: {variable.lower()}={value!r} (environment variable LEAKGUARD_{variable}) is not accepted: {words}"
    )


def test_refusal_of_a_value_in_the_file(project: Path) -> None:
    """A bad value in the file names the file."""
    path = configure(project, "threshold = true")
    assert refused(directory=project) == (
        f'leakguard: threshold=True ({path} [tool.leakguard]) is not accepted: {LIMIT_WORDS}, or "learned"'
    )


def test_refusal_names_the_source_it_is_given() -> None:
    """A caller that collects keywords from elsewhere, such as the command line, can say so."""
    assert "threshold=0 (command line) is" in refused({"threshold": 0}, source="command line")


def test_weaker_sources_are_checked_too(project: Path) -> None:
    """A bad value is refused also where a stronger source overrides it."""
    configure(project, "threshold = 0")
    assert "pyproject.toml" in refused({"threshold": 1}, {"LEAKGUARD_THRESHOLD": "1"}, project)


def test_refusal_is_short_and_printable(tmp_path: Path) -> None:
    """A long, multi-line or hostile value, name or path stays one short line."""

    class Hostile:
        def __repr__(self) -> str:
            return "\x1b[31m\n\u202e" * 1000

    text = refused({"threshold": Hostile()})
    assert r"\x1b[31m\n\u202e" in text
    assert len(text) < 200
    assert r"a\nb=5" in refused({"a\nb": 5})
    folder = tmp_path / "new\nline"
    folder.mkdir()
    configure(folder, "threshold = 0")
    assert r"new\nline" in refused(directory=folder)


def test_error_is_a_value_error() -> None:
    """Callers may catch it as ours or as a ValueError."""
    assert issubclass(SettingsError, LeakguardError)
    assert issubclass(SettingsError, ValueError)


# --- patterns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "file", "expected"),
    [
        ("shop/legacy.py", "/srv/shop/legacy.py", True),
        ("legacy.py", "/srv/shop/legacy.py", True),
        ("/srv/shop/legacy.py", "/srv/shop/legacy.py", True),
        ("shop/legacy.py", "shop/legacy.py", True),
        ("*/legacy/*.py", "/srv/legacy/old/a.py", True),
        ("legacy/*", "/srv/legacy/a.py", True),
        ("l?gacy.py", "/srv/legacy.py", True),
        ("shop/legacy.py", "/srv/workshop/legacy.py", False),
        ("shop", "/srv/shop/legacy.py", False),
        ("legacy.PY", "/srv/legacy.py", False),
        ("srv/*", "/srv2/a.py", False),
    ],
)
def test_file_patterns(glob: str, file: str, expected: bool) -> None:
    """A file pattern matches the whole path or an end of it that starts after a separator."""
    pattern = IgnorePattern(field="file", glob=glob)
    assert pattern.matches(file=file, function=None, pool=None, fingerprint=None) is expected


@pytest.mark.parametrize("field", ["function", "pool", "fingerprint"])
def test_other_patterns(field: Literal["function", "pool", "fingerprint"]) -> None:
    """Other patterns match their own property as a whole, and null never matches."""
    nothing: dict[str, str | None] = {"file": None, "function": None, "pool": None, "fingerprint": None}
    pattern = IgnorePattern(field=field, glob="ab*")
    assert pattern.matches(**{**nothing, field: "abc"})
    assert not pattern.matches(**{**nothing, field: "x/abc"})
    assert not pattern.matches(**{**nothing, field: "AB"})
    assert not pattern.matches(**{**dict.fromkeys(nothing, "ab"), field: "x"})
    assert not IgnorePattern(field=field, glob="*").matches(**nothing)


def test_pattern_as_text() -> None:
    """A pattern reads back what it writes."""
    pattern = IgnorePattern.parse("fingerprint = 8f21*")
    assert str(pattern) == "fingerprint=8f21*"
    assert IgnorePattern.parse(str(pattern)) == pattern


# --- child processes -------------------------------------------------------------------------------------------------


def test_environment_of_a_child(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `to_environ` writes, `resolve` reads back in a child, in another working directory too."""
    overrides: dict[str, object] = {
        "enabled": False,
        "threshold": None,
        "thresholds": {"pool=reports": 600, "file=jobs/*.py": "learned", "function=a:b": None},
        "idle_in_transaction": 0.1,
        "owner_grace": 1e-7,
        "on_leak": ["log", "raise"],
        "report": "a, %p.jsonl",
        "export": ["otel", "prometheus:0.0.0.0:9464"],
        "reclaim": "dropped",
        "stacks": "full",
        "app_packages": ["a.b", "c"],
        "ignore": ["file=x/*.py", IgnorePattern(field="pool", glob="p")],
        "integrations": ["pymysql", "pg8000.dbapi"],
        "live": False,
        "incident_dir": "var/incidents",
    }
    monkeypatch.chdir(project)
    expected = resolve(overrides, environ={})
    environ = to_environ(overrides)
    assert set(environ) == {f"LEAKGUARD_{name.upper()}" for name in NAMES}
    monkeypatch.chdir("/")
    assert resolve({}, environ=environ) == expected


def test_environment_of_empty_values(project: Path) -> None:
    """An empty list reaches the child over its file; no report is what it starts with."""
    configure(project, "ignore = ['file=x.py']")
    environ = to_environ({"ignore": [], "report": None, "incident_dir": None})
    assert environ == {"LEAKGUARD_IGNORE": ","}
    assert resolve({}, environ=environ, directory=project) == Settings()


@pytest.mark.parametrize(
    ("name", "value"), [("on_leak", print), ("on_leak", ["log", Collector()]), ("ignore", "pool=a,b")]
)
def test_environment_cannot_carry_everything(name: str, value: object) -> None:
    """What no variable can carry is refused and not lost."""
    with pytest.raises(SettingsError, match=f"{name}=.* for child processes, text without a comma"):
        to_environ({name: value})


def test_environment_of_bad_values() -> None:
    """A bad override is refused here too."""
    with pytest.raises(SettingsError, match="treshold"):
        to_environ({"treshold": 1})


# --- the module ------------------------------------------------------------------------------------------------------


def test_settings_are_values() -> None:
    """Settings cannot be changed, and compare, hash and pickle by value."""
    settings = resolve({"report": "/x", "ignore": "pool=a"}, base=Settings())
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(settings) == hash(resolve({"report": "/x", "ignore": "pool=a"}, base=Settings()))
    with pytest.raises(AttributeError):
        settings.threshold = 1.0  # type: ignore[misc]


def test_import_is_light() -> None:
    """Importing the module loads neither tomllib nor difflib, which are for the rare need."""
    root = Path(module.__file__).parents[1]
    program = "import json, sys, leakguard.settings; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"tomllib", "difflib"} & set(json.loads(done.stdout))
