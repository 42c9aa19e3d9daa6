"""The documentation is true: its examples run, and it names every setting, event key, option and public name.

Blocks of README.md and docs/ marked ``python`` are run as programs, in order, in one directory for each page, with
``DATABASE_URL`` naming an empty database; those marked ``console`` are typed into a shell. A comment right before a
block says what else there is to know::

    <!-- test: file app.py -->      save the block under this name; commands of later blocks run it
    <!-- test: status 3 -->         the program, or the block's last command, ends with this exit status
    <!-- test: output -->           (a ``text`` block) standard output of the program before it
    <!-- test: help run -->         (a ``text`` block) what ``leakguard run --help`` prints
    <!-- test: needs django -->     a block of commands that is not run where this package is missing
    <!-- test: skip, REASON -->     not run

What differs from run to run (times, process ids, addresses) counts as equal. The output after a command may stop early:
it has to be the beginning of what the command prints, standard error after standard output.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import leakguard
from leakguard import baseline, model
from leakguard.cli import build_parser
from leakguard.pytest_plugin.fixture import LeakguardFixture
from leakguard.reporters.jsonl import decode
from leakguard.settings import Settings, resolve

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]

# ------------------------------------------------------------------------------------------------------ the extractor

_BLOCK = re.compile(
    r"(?:<!-- test: (?P<test>[^\n]*?) -->\s*\n)?"
    r"^(?P<fence>```+)(?P<language>[\w{}-]*)[^\n]*\n(?P<text>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
_DIRECTIVE = re.compile(r"file [\w.-]+|needs \w+|status \d+|output|help( \w+)?|skip, .+")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str
    test: str

    def directive(self, name: str) -> str | None:
        """What follows the name of a directive, if it is this block's."""
        word, _, rest = self.test.replace(",", " ", 1).partition(" ")
        return rest.strip() if word == name else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path, content: str | None = None) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    content = page.read_text(encoding="utf-8") if content is None else content
    for match in _BLOCK.finditer(content):
        line = content.count("\n", 0, match.start("fence")) + 1
        yield Block(page, line, match["language"], match["text"], match["test"] or "")


def page_id(page: Path) -> str:
    """A page as a test's name shows it."""
    return str(page.relative_to(ROOT))


def section(page: Path, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, f"{page_id(page)} has no heading {heading!r}"
    return found[1]


# ---------------------------------------------------------------------------------------------------- the typing test


@dataclass(frozen=True)
class Shell:
    """A directory and an environment in which ``python`` and ``leakguard`` are those under test."""

    directory: Path
    environment: dict[str, str]

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Type one line."""
        return subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path, dsn: str) -> Shell:
    """An empty directory, with the interpreter under test on the PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    pytests = " -m pytest -p leakguard.pytest_plugin -p no:randomly -p no:cacheprovider"
    if any(entry.name == "leakguard" for entry in entry_points(group="pytest11")):
        pytests = pytests.replace(" -p leakguard.pytest_plugin", "")
    for name, arguments in (("python", ""), ("leakguard", " -m leakguard"), ("pytest", pytests)):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        program.chmod(0o755)
    directory = tmp_path / "app"
    directory.mkdir()
    # Where CI is set, pytest does not shorten its summary to the width that the pages show.
    hidden = {"CI", "BUILD_NUMBER"}
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("LEAKGUARD_") and name not in hidden
    }
    environment = {**kept, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "DATABASE_URL": dsn, "COLUMNS": "80"}
    # The checkout may be on the path by being the working directory only.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return Shell(directory, environment)


def same_each_time(text: str, directory: Path) -> str:
    """The text without what differs from run to run, and without the line breaks that depend on it."""
    text = text.replace(f"{directory}/", "").replace("/srv/app/", "")
    text = re.sub(r"\n {15}(?=\S)(?!~)", " ", text)  # continued lines of a report's block
    text = re.sub(r"^  now: .*$", "  now: ...", text, flags=re.MULTILINE)
    # On a busy machine the search for it may run out of time.
    text = re.sub(r"^  kept by: .*$", "  kept by: ...", text, flags=re.MULTILINE)
    text = re.sub(r"\b\d+(\.\d+)? (s|sec)\b", "N s", text)
    text = re.sub(r"\bin \d+\.\d+s\b", "in N s", text)
    text = re.sub(r"\b(pid|port) \d+", r"\1 N", text)
    text = re.sub(r"\) on \S+", ") on HOST", text).replace(") on HOST:", ") on HOST")
    text = re.sub(r"[\w.]+:\d+/\w+, user \w+", "SERVER, user USER", text)
    # A psycopg_pool that is asked before its first connection is there opens one more than is needed.
    text = re.sub(r"\b\d+ of (\d+) connections? open", r"N of \1 connections open", text)
    text = re.sub(r"\bheld, \d+ open\b", "held, N open", text)
    text = re.sub(r"\(\d+ library frames? hidden\)", "(N library frames hidden)", text)
    text = re.sub(r"N s +", "N s ", text)  # in columns, which are padded
    text = re.sub(r"(N s (?:in transaction|idle|running)) +\d+ ", r"\1 PID ", text)
    text = re.sub(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d", "TIME", text)
    text = re.sub(r"incident-\d{8}T\d{6}Z-\d+", "incident-TIME-PID", text)
    return text.rstrip()


def run_console(block: Block, shell: Shell) -> None:
    """Type the commands of a block, and compare what they print."""
    entries = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)
    assert entries, f"{block}: no line begins with $"
    for number, (command, expected) in enumerate(entries, start=1):
        status = int(block.directive("status") or 0) if number == len(entries) else 0
        done = shell.run(command)
        printed = done.stdout + done.stderr
        assert done.returncode == status, f"{block}: $ {command}\nended with {done.returncode}\n{printed}"
        told, wanted = same_each_time(printed, shell.directory), same_each_time(expected, shell.directory)
        if told != wanted:  # it may stop early, but not in the middle of a line
            assert wanted, f"{block}: $ {command}\nsays something\n{printed}"
            assert f"{told}\n".startswith(f"{wanted}\n"), f"{block}: $ {command}\n{told}\n--- instead of\n{wanted}"


def run_python(block: Block, shell: Shell) -> str:
    """Run a block as a program; returns its standard output."""
    Path(shell.directory, "example.py").write_text(block.text, encoding="utf-8")
    done = shell.run("python example.py")
    assert done.returncode == int(block.directive("status") or 0), f"{block}\n{done.stdout}{done.stderr}"
    assert "internal error" not in done.stderr, f"{block}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_examples_run(page: Path, shell: Shell) -> None:
    """Whoever types a page's examples in gets what the page shows."""
    printed = ""
    for block in blocks_of(page):
        name = block.directive("file")
        if name is not None:
            Path(shell.directory, name).write_text(block.text, encoding="utf-8")
        elif block.directive("skip") is not None or not importlib.util.find_spec(block.directive("needs") or "pytest"):
            continue
        elif block.language == "python":
            printed = run_python(block, shell)
        elif block.language == "console":
            run_console(block, shell)
        elif block.directive("output") is not None:
            told, wanted = same_each_time(printed, shell.directory), same_each_time(block.text, shell.directory)
            assert told == wanted, f"{block}: the program before it prints\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_block_is_known_to_the_tests(page: Path) -> None:
    """A block in a language that nothing here runs, or with a misspelt comment, would be an unproven claim."""
    content = page.read_text(encoding="utf-8")
    known = {"python", "console", "text", "toml", "json", "{toctree}", "{include}"}
    for block in blocks_of(page):
        assert block.language in known, f"{block}: {block.language or 'no language'}"
        assert not block.test or _DIRECTIVE.fullmatch(block.test), f"{block}: {block.test}"
        if block.directive("output") is not None or block.directive("help") is not None:
            assert block.language == "text", str(block)
    assert len(re.findall(r"^```", content, re.MULTILINE)) == 2 * len(list(blocks_of(page)))
    assert content.count("<!-- test:") == sum(1 for block in blocks_of(page) if block.test)


def test_blocks_are_found_with_their_comments() -> None:
    """The extractor sees what stands before a fence, and only there."""
    page = PAGES[0]
    text = "x\n\n<!-- test: skip, why -->\n```console\n$ a\n```\n\n```python\nb\n```\n<!-- test: status 3 -->\n"
    found = [(block.language, block.text, block.test, block.line) for block in blocks_of(page, text)]
    assert found == [("console", "$ a\n", "skip, why", 4), ("python", "b\n", "", 8)]


def test_no_page_names_a_place_of_one_machine() -> None:
    """Pasted output shows relative paths, or those below /srv/app."""
    for page in PAGES:
        found = re.findall(r"/(?:tmp|home|root|work|Users)/\S*", page.read_text(encoding="utf-8"))
        assert found == [], page_id(page)


def test_links_lead_somewhere() -> None:
    """A link to a file of the repository names one that exists, and its anchor a heading there."""
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text(encoding="utf-8")):
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page_id(page)}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {
                    re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-").replace("_", "-") for heading in headings
                }
                assert anchor.replace("_", "-") in slugs, f"{page_id(page)}: {target}#{anchor}"


# ----------------------------------------------------------------------------------------------------------- settings

SETTINGS_PAGE = REFERENCE / "settings.md"
each_setting = pytest.mark.parametrize("setting", fields(Settings), ids=lambda setting: setting.name)


def setting_line(name: str, label: str) -> str:
    """One line of the list below a setting's heading; the first code in it, else its text."""
    found = re.search(rf"^- {label}: (.*)$", section(SETTINGS_PAGE, name), re.MULTILINE)
    assert found is not None, f"settings.md, {name}: no line {label!r}"
    code = re.match(r"`(.*?)`", found[1])
    return code[1] if code else found[1]


@each_setting
def test_every_setting_has_a_heading_with_its_default(setting) -> None:
    """The page and the dataclass cannot tell different defaults."""
    told = setting_line(setting.name, "Default")
    value = None if told == "none" else ast.literal_eval(told)
    if value is None:
        assert setting.default in (None, ())
    else:
        assert setting.default in (value, (value,))
        assert type(setting.default) in (type(value), tuple)


@each_setting
def test_a_setting_is_the_same_from_every_source(setting, tmp_path: Path) -> None:
    """The examples for keyword, environment and file are accepted, and mean one thing."""
    call = ast.parse(f"f({setting_line(setting.name, 'Keyword')})", mode="eval").body
    assert isinstance(call, ast.Call)
    (keyword,) = call.keywords
    variable, _, text = setting_line(setting.name, "Environment").partition("=")
    assert (keyword.arg, variable) == (setting.name, f"LEAKGUARD_{setting.name.upper()}")
    Path(tmp_path, "pyproject.toml").write_text(f"[tool.leakguard]\n{setting_line(setting.name, 'File')}\n")

    empty = tmp_path / "empty"
    empty.mkdir()
    Path(empty, "pyproject.toml").touch()
    value = getattr(resolve({setting.name: ast.literal_eval(keyword.value)}, environ={}, directory=empty), setting.name)
    assert getattr(resolve({}, environ={variable: text}, directory=empty), setting.name) == value
    assert getattr(resolve({}, environ={}, directory=tmp_path), setting.name) == value
    assert value != setting.default


def test_settings_page_lists_nothing_else() -> None:
    """A removed setting leaves the page."""
    headings = re.findall(r"^## (\w+)$", SETTINGS_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [setting.name for setting in fields(Settings)]


def test_files_in_the_documentation_are_accepted(tmp_path: Path) -> None:
    """An example of `pyproject.toml` works when it is copied."""
    found = [block for page in PAGES for block in blocks_of(page) if block.language == "toml"]
    assert found
    for block in found:
        Path(tmp_path, "pyproject.toml").write_text(block.text)
        resolve({}, environ={}, directory=tmp_path)


# ------------------------------------------------------------------------------------------------------------- events

EVENTS_PAGE = REFERENCE / "events.md"
DOCUMENTED = {
    "leak": model.Leak,
    "recovered": model.Recovered,
    "exhausted": model.Exhausted,
    "summary": model.Summary,
    "hold": model.Hold,
    "owner": model.Owner,
    "site": model.Site,
    "frame": model.Frame,
    "server": model.Server,
    "pool": model.PoolInfo,
    "now": model.Now,
    "holders": model.HolderGroup,
    "snapshot": model.Snapshot,
    "pool now": model.PoolNow,
    "hold now": model.HoldNow,
    "leak count": model.LeakCount,
}


@pytest.mark.parametrize("heading", DOCUMENTED)
def test_every_event_key_is_documented(heading: str) -> None:
    """The tables have the keys of the classes, all of them and in their order."""
    told = re.findall(r"^\| `(\w+)` \|", section(EVENTS_PAGE, heading), re.MULTILINE)
    assert told == [field.name for field in fields(DOCUMENTED[heading]) if field.name != "event"]


@pytest.mark.parametrize("heading", ["leak", "recovered", "exhausted", "summary", "snapshot"])
def test_examples_of_events_are_complete(heading: str) -> None:
    """Each is an event that leakguard itself would write, to the last key."""
    text = section(EVENTS_PAGE, heading)
    (block,) = [block for block in blocks_of(EVENTS_PAGE, text) if block.language == "json"]
    event, data = decode(block.text.encode())
    assert event.event == heading
    assert json.dumps(event.to_dict()) == json.dumps(data)


def test_every_value_of_a_key_is_documented() -> None:
    """Kinds, states, boundaries, causes and owner states are told with the key that has them."""
    page = EVENTS_PAGE.read_text(encoding="utf-8")
    for literal in (model.Kind, model.State, model.Boundary, model.Cause, model.OwnerState):
        assert [value for value in literal.__args__ if f"`{value}`" not in page] == []


def test_every_kind_has_a_section() -> None:
    """A report names its kind; whoever looks it up finds the rule."""
    page = DOCS / "how-leaks-are-decided.md"
    for kind in model.KINDS:
        assert "**Rule.**" in section(page, kind)


# ------------------------------------------------------------------------------------- command line and public names

CLI_PAGE = REFERENCE / "cli.md"


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parser of every subcommand."""
    (action,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented_with_its_own_help(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows what `--help` prints; how argparse of each Python breaks its lines does not matter."""
    monkeypatch.setenv("COLUMNS", "80")
    (block,) = [block for block in blocks_of(CLI_PAGE) if block.directive("help") == name]
    assert block.text.split() == commands()[name].format_help().split()
    assert section(CLI_PAGE, f"leakguard {name}")


@pytest.mark.parametrize("name", commands())
def test_every_option_is_documented(name: str) -> None:
    """Also if somebody turns its help off."""
    (block,) = [block for block in blocks_of(CLI_PAGE) if block.directive("help") == name]
    options = [option for action in commands()[name]._actions for option in action.option_strings]
    assert [option for option in options if option not in block.text] == []


def test_every_public_name_is_documented() -> None:
    """`leakguard.__all__` and the API page name the same things."""
    page = (REFERENCE / "api.md").read_text(encoding="utf-8")
    headings = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    rows = set(re.findall(r"^\| `(\w+)` \| \[", page, re.MULTILINE))
    assert headings | rows == set(leakguard.__all__)


def test_public_members_of_a_guard_are_documented() -> None:
    """What the table says of a guard exists."""
    for name in re.findall(r"^\| `(\w+)", section(REFERENCE / "api.md", "Guard"), re.MULTILINE):
        assert hasattr(leakguard.Guard, name)


# ---------------------------------------------------------------------------------------------------- the pytest plugin

PYTEST_PAGE = REFERENCE / "pytest.md"


def test_every_option_of_the_plugin_is_documented() -> None:
    """The table has what `pytest --help` has, and so do the tables of ini keys and markers."""
    source = (ROOT / "leakguard" / "pytest_plugin" / "__init__.py").read_text(encoding="utf-8")
    options = set(re.findall(r"^\| `(--[\w-]+)", section(PYTEST_PAGE, "Options"), re.MULTILINE))
    assert options == set(re.findall(r'"(--leakguard[\w-]*)",', source))
    keys = set(re.findall(r"^\| `(\w+)`", section(PYTEST_PAGE, "Configuration"), re.MULTILINE))
    assert keys == set(re.findall(r'addini\("(\w+)"', source))
    markers = set(re.findall(r"^\| `(\w+)\(", section(PYTEST_PAGE, "Markers"), re.MULTILINE))
    assert markers == set(re.findall(r'^    "(\w+)\([^"]*\): ', source, re.MULTILINE))


def test_every_method_of_the_fixture_is_documented() -> None:
    """What a test can call is on the page."""
    told = set(re.findall(r"^\| `(\w+)\(", section(PYTEST_PAGE, "The fixture leakguard"), re.MULTILINE))
    assert told == {name for name in vars(LeakguardFixture) if not name.startswith("_")} - {"of"}


def test_every_key_of_the_baseline_is_documented() -> None:
    """The table has the keys that the reader accepts."""
    told = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", section(PYTEST_PAGE, "The baseline"), re.MULTILINE))
    )
    assert sorted(told) == sorted(baseline._KEYS)


# ---------------------------------------------------------------------------------------------------------- the design


def test_design_has_the_layers_of_the_layers_test() -> None:
    """A module that gets its place in one table gets it in the other."""
    source = (ROOT / "tests" / "test_layers.py").read_text(encoding="utf-8")
    (layers,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "LAYERS"
        if node.value is not None
    ]
    told = re.findall(r"`([\w.*]+)`", section(DOCS / "design.md", "Layers"))
    names = [name for layer in layers for name in layer if name != "__main__"]
    assert [name for name in names if name.removesuffix(".") not in (*told, "")] == []


def test_tests_that_the_design_names_exist() -> None:
    """An invariant is kept by tests that are there."""
    design = (DOCS / "design.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/.]+)`", design))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


# --------------------------------------------------------------------------------------------------------------- build


@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path: Path) -> None:
    """No broken link, no page outside the table of contents."""
    if any(importlib.util.find_spec(name) is None for name in ("sphinx", "furo", "myst_parser")):
        pytest.skip("needs the extra `docs`")
    arguments = ["-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
