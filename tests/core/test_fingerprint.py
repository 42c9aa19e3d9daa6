"""The fingerprint: one bug, one name, in every run, process and machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import CodeType

import pytest

from leakguard.register.fingerprint import fingerprint, portable
from leakguard.register.stacks import WINDOW, FrameRules, RawStack

RULES = FrameRules()


def stack(*frames: tuple[str, str], shift: int = 0) -> RawStack:
    """A raw stack of functions ``(file, name)``, innermost first, each `shift` lines further down its file."""
    raw: list[CodeType | int] = []
    for file, name in frames:
        namespace: dict[str, object] = {}
        exec(compile("\n" * shift + f"def {name}(): pass", file, "exec"), namespace)
        raw += [namespace[name].__code__, 2 * shift]  # type: ignore[attr-defined]
    return tuple(raw)


ONE = (("/srv/shop/orders.py", "export"), ("/srv/shop/web.py", "handler"))


def name_of(raw: RawStack, library: str = "psycopg") -> str:
    """The name of an acquisition."""
    return fingerprint(raw, library, RULES)


def test_it_is_twelve_hex_digits() -> None:
    """Also where there is no stack at all."""
    for raw in (stack(*ONE), ()):
        assert re.fullmatch("[0-9a-f]{12}", name_of(raw))


def test_an_edit_elsewhere_in_the_file_does_not_rename_the_bug() -> None:
    """No line numbers."""
    assert name_of(stack(*ONE)) == name_of(stack(*ONE, shift=40))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((("/srv/shop/orders.py", "import_"), ONE[1]), id="another function"),
        pytest.param((("/srv/shop/other.py", "export"), ONE[1]), id="another file"),
        pytest.param((ONE[0], ("/srv/shop/web.py", "admin")), id="another caller"),
        pytest.param((ONE[0],), id="no caller"),
    ],
)
def test_another_place_is_another_bug(other: tuple[tuple[str, str], ...]) -> None:
    """Function, file and the application's callers all count."""
    assert name_of(stack(*ONE)) != name_of(stack(*other))


def test_another_library_is_another_bug() -> None:
    """The same line may open a connection and check one out."""
    assert name_of(stack(*ONE), "psycopg") != name_of(stack(*ONE), "psycopg_pool")


def test_frames_of_libraries_do_not_count() -> None:
    """An upgrade of a driver or a framework does not rename the bug."""
    driver, framework = ("/v/site-packages/psycopg/x.py", "connect"), ("/v/site-packages/flask/app.py", "dispatch")
    assert name_of(stack(*ONE)) == name_of(stack(driver, ONE[0], framework, ONE[1]))


def test_a_recursion_is_one_bug_however_deep() -> None:
    """Once, twice or four times through the same function."""
    inner, outer = ONE
    names = {name_of(stack(*[inner] * depth, outer)) for depth in (1, 2, 4)}
    assert len(names) == 1
    assert name_of(stack(inner, outer, inner)) not in names


def test_frames_beyond_the_window_do_not_count() -> None:
    """The fast stack ends there, so the full one has to as well."""
    inner = [(f"/srv/{number}.py", "f") for number in range(WINDOW)]
    assert name_of(stack(*inner)) == name_of(stack(*inner, ("/srv/main.py", "main")))
    assert name_of(stack(*inner)) != name_of(stack(*inner[:-1]))


def test_an_installed_site_counts_alone() -> None:
    """Where there is no application frame, the package's own function names the bug."""
    one, two = ("/v/site-packages/celery/a.py", "work"), ("/v/site-packages/celery/b.py", "work")
    assert name_of(stack(one)) != name_of(stack(two))
    assert name_of(stack(one, two)) == name_of(stack(one))


def test_a_path_is_relative_to_its_longest_sys_path_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two checkouts, two machines, two working directories: one name."""
    monkeypatch.setattr(sys, "path", ["/srv", "/srv/shop", "/other"])
    assert portable("/srv/shop/web/app.py") == "web/app.py"
    monkeypatch.setattr(sys, "path", ["/srv/shop", "/srv", "/other"])
    assert portable("/srv/shop/web/app.py") == "web/app.py"
    assert portable("/srv/bank/app.py") == "bank/app.py"
    assert portable("/srv/shopping/app.py") == "shopping/app.py"
    assert portable("/elsewhere/app.py") == "app.py"
    assert portable("<stdin>") == "<stdin>"
    monkeypatch.setattr(sys, "path", ["/"])
    assert portable("/app.py") == "app.py"
    monkeypatch.setattr(sys, "path", [""])
    monkeypatch.chdir(tmp_path)
    assert portable(str(tmp_path / "pkg" / "app.py")) == "pkg/app.py"
    assert portable("pkg/app.py") == "pkg/app.py"


def test_it_is_the_same_under_another_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same program in /srv/v1 and in /opt/v2."""
    names = set()
    for root in ("/srv/v1", "/opt/v2"):
        monkeypatch.setattr(sys, "path", [root])
        names.add(name_of(stack((f"{root}/shop/orders.py", "export"))))
    assert len(names) == 1


@pytest.mark.slow
def test_it_is_the_same_in_another_process(tmp_path: Path) -> None:
    """With another hash seed, another root and another working directory."""
    program = """
import sys
from leakguard.register.fingerprint import fingerprint
from leakguard.register.stacks import Recorder
def export(recorder):
    return recorder.capture(0)
def handler():
    recorder = Recorder()
    return fingerprint(export(recorder)[1], "psycopg", recorder.rules)
print(handler())
"""
    names = []
    for seed, home in (("1", "one"), ("2", "two")):
        folder = tmp_path / home
        folder.mkdir()
        (folder / "app.py").write_text(program)
        package = str(Path(sys.modules["leakguard"].__path__[0]).parent)
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": package}
        command = [sys.executable, str(folder / "app.py")] if seed == "1" else [sys.executable, "app.py"]
        place = tmp_path if seed == "1" else folder
        done = subprocess.run(command, env=environment, cwd=place, check=True, capture_output=True, text=True)
        names.append(done.stdout)
    assert names[0] == names[1]
    assert re.fullmatch("[0-9a-f]{12}\n", names[0])
