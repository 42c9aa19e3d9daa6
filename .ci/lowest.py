"""Prints pip constraints that hold every library and test tool to its lower bound in the given pyproject.toml."""

import re
import sys
import tomllib
from pathlib import Path

EXTRAS = ("psycopg", "psycopg2", "sqlalchemy", "asyncpg", "html", "otel", "prometheus", "sentry", "demo", "test")

project = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]
requirements = [*project["dependencies"]]
for extra in EXTRAS:
    requirements += project["optional-dependencies"][extra]
for requirement in requirements:
    if not requirement.startswith("leakguard["):
        name, lowest = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?>=([\w.]+)", requirement).groups()
        sys.stdout.write(f"{name}=={lowest}\n")
