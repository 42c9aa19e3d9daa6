"""docs/frameworks.md is true: its commands are typed, and what they print has the lines that the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers.conftest import Serve, Start
from tests.servers.support import EXAMPLES, PATIENCE, ROOT, Program, Web, clean_environment
from tests.test_docs import blocks_of, same_each_time

pytestmark = pytest.mark.slow
for needed in ("celery", "django", "fastapi", "flask", "gevent", "gunicorn", "uvicorn"):
    pytest.importorskip(needed)

PAGE = ROOT / "docs" / "frameworks.md"
SOON = {"LEAKGUARD_OWNER_GRACE": "0.2"}


@dataclass(frozen=True)
class Typed:
    """A server's command, what is typed into another terminal, and what the page shows of the server's output."""

    line: int
    command: str
    then: list[str]
    shown: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables in front of the command."""
        return dict(re.findall(r"(\w+)=(\S+) ", self.command.partition("leakguard")[0]))

    @property
    def options(self) -> list[str]:
        """Those of ``leakguard run``."""
        return shlex.split(self.command.partition("leakguard run")[2].partition(" -- ")[0])

    @property
    def arguments(self) -> list[str]:
        """The server's, for the interpreter under test, with a port of its own."""
        program, *words = shlex.split(self.command.partition(" -- ")[2].replace("8000", "{port}"))
        script = Path(sys.executable).with_name(program)
        return [str(script), *(re.sub(r"^examples", str(EXAMPLES), word) for word in words)]


def typed() -> Iterator[Typed]:
    """What the page says is typed."""
    for console, text in pairwise(blocks_of(PAGE)):
        if console.language == "console" and text.language == "text":
            lines = re.findall(r"^\$ (.*)$", console.text, re.MULTILINE)
            at = next(number for number, line in enumerate(lines) if "leakguard run" in line)
            yield Typed(console.line, lines[at], lines[at + 1 :], text.text)


TYPED = list(typed())


def missing(program: Program, wanted: str) -> list[str]:
    """The lines that the page shows and the program has not printed."""
    told = same_each_time(program.output.replace(f"{EXAMPLES}/servers/", "").replace(f"{EXAMPLES}/", ""), ROOT)
    return [line for line in same_each_time(wanted, ROOT).splitlines() if line not in told]


def ask(web: Web, typed: Typed) -> float:
    """Type the requests; returns when that was."""
    for request in typed.then:
        found = re.fullmatch(r"curl http://127.0.0.1:8000(/\S+)", request)
        assert found is not None, request
        web.get(found[1])
    return time.monotonic()


def test_the_page_has_its_examples() -> None:
    """The reader finds them."""
    assert len(TYPED) == 6


@pytest.mark.parametrize("typed", [one for one in TYPED if "celery" not in one.command], ids=lambda one: str(one.line))
def test_a_server_of_the_page(serve: Serve, typed: Typed) -> None:
    """Whoever types its command and opens its address sees what the page shows."""
    web = serve(typed.arguments, *typed.options, **typed.environment, **SOON)
    asked_at = ask(web, typed)

    def shown() -> bool:
        nonlocal asked_at
        if time.monotonic() - asked_at > 2:  # the collector came before the grace was over: that was a dropped one
            asked_at = ask(web, typed)
        return not missing(web, typed.shown)

    if "dropped" not in typed.shown:
        web.wait_for(shown)
    web.stop()  # what only a collection finds is found at exit
    assert missing(web, typed.shown) == [], web.output


@pytest.mark.parametrize("typed", [one for one in TYPED if "celery" in one.command], ids=lambda one: str(one.line))
def test_the_worker_of_the_page(start: Start, typed: Typed, tmp_path: Path, dsn: str) -> None:
    """And whoever calls its task."""
    broker = {"BROKER_DIRECTORY": str(tmp_path / "broker"), "PYTHONPATH": str(EXAMPLES / "servers")}
    worker = start(typed.arguments, *typed.options, **broker)
    for line in typed.then:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *shlex.split(line)],
            env={**clean_environment(), **broker, "DATABASE_URL": dsn},
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE,
            check=True,
        )
    worker.wait_for(lambda: not missing(worker, typed.shown))
    worker.stop()


def test_the_hook_of_the_page(serve: Serve, tmp_path: Path) -> None:
    """``install()`` in gunicorn's ``post_fork``, without ``leakguard run``: the report is in the log."""
    (hook,) = (block.text for block in blocks_of(PAGE) if block.language == "python")
    (tmp_path / "gunicorn.conf.py").write_text(hook.replace("install()", "install(owner_grace=0.2)"))
    command = ["-m", "gunicorn", "--chdir", str(EXAMPLES / "servers"), "--config", str(tmp_path / "gunicorn.conf.py")]
    web = serve([*command, "--bind", "127.0.0.1:{port}", "flask_app:app"], guarded=False)
    web.get("/export/leaky")
    web.wait_for(lambda: "LEAK orphaned connection" in web.output)
    web.stop()
