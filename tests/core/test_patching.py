"""Patches: exactly undone, whatever was patched; and import hooks that leave the import system as it was."""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from leakguard.patching import ImportWatcher, Patches, dressed


def make_classes() -> tuple[type, type]:
    """A base class and a subclass that inherits everything."""

    class Base:
        """The base."""

        def method(self, x: int = 1) -> int:
            """Add nothing."""
            return x

        @classmethod
        def build(cls) -> str:
            """Name the class."""
            return cls.__name__

        @staticmethod
        def helper() -> str:
            return "helped"

    class Child(Base):
        """The child."""

    return Base, Child


def plus_one(original: Callable[..., Any]) -> Callable[..., Any]:
    """A patch that can be seen."""

    def method(self: object, *args: Any, **kwargs: Any) -> Any:
        return original(self, *args, **kwargs) + 1

    return dressed(method, original)


@pytest.mark.parametrize("which", [0, 1], ids=["own method", "inherited method"])
def test_undo_leaves_the_class_as_it_was(which: int) -> None:
    """The very same objects in ``vars()``, in the same order, and nothing new where it was inherited."""
    classes = make_classes()
    before = [list(vars(cls).items()) for cls in classes]
    patches = Patches()
    patches.replace(classes[which], "method", plus_one)
    assert classes[which]().method() == 2
    assert classes[0]().method() == 2 - which
    patches.undo()
    assert [list(vars(cls).items()) for cls in classes] == before
    assert classes[1]().method() == 1


@pytest.mark.parametrize("which", [0, 1], ids=["own", "inherited"])
def test_a_classmethod_is_put_back_as_a_classmethod(which: int) -> None:
    """Not as a method bound to one class for ever: a subclass still builds itself."""
    base, child = make_classes()
    before = [dict(vars(cls)) for cls in (base, child)]
    patches = Patches()
    patches.wrap((base, child)[which], "build", lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs) + "!")
    assert child.build() == "Child!"  # type: ignore[attr-defined]
    assert base.build() == ("Base!" if which == 0 else "Base")  # type: ignore[attr-defined]
    patches.undo()
    assert [dict(vars(cls)) for cls in (base, child)] == before
    assert (base.build(), child.build()) == ("Base", "Child")  # type: ignore[attr-defined]


def test_make_gets_what_stands_in_the_class_body() -> None:
    """The classmethod object itself, as a base class defines it, not what getattr would bind."""
    base, child = make_classes()
    seen: list[object] = []
    patches = Patches()
    for name in ("build", "helper", "method"):
        patches.replace(child, name, lambda original: seen.append(original) or original)
    assert seen == [vars(base)["build"], vars(base)["helper"], vars(base)["method"]]
    patches.undo()
    assert "build" not in vars(child)


def test_a_module_is_patched_and_put_back() -> None:
    """``psycopg.connect`` is an attribute of a module."""
    module = types.ModuleType("driver")
    module.connect = original = lambda: 1  # type: ignore[attr-defined]
    patches = Patches()
    patches.replace(module, "connect", lambda f: lambda: f() + 1)
    assert module.connect() == 2
    patches.undo()
    assert module.connect is original


def test_patches_are_undone_last_first() -> None:
    """Two patches of one attribute, and a listener in between."""
    base, _ = make_classes()
    before = dict(vars(base))
    undone: list[str] = []
    patches = Patches()
    patches.replace(base, "method", plus_one)
    patches.on_undo(lambda: undone.append("listener"))
    patches.replace(base, "method", plus_one)
    patches.on_undo(lambda: undone.append("last"))
    assert base().method() == 3
    patches.undo()
    assert dict(vars(base)) == before
    assert undone == ["last", "listener"]
    patches.undo()
    assert undone == ["last", "listener"]


def test_a_wrapper_of_somebody_else_stays() -> None:
    """If another tool has wrapped ours since, theirs is not thrown away, and still works."""
    base, _ = make_classes()
    patches = Patches()
    patches.replace(base, "method", plus_one)
    ours = vars(base)["method"]

    def theirs(self: object) -> int:
        return int(ours(self)) * 10

    base.method = theirs  # type: ignore[attr-defined]
    patches.undo()
    assert vars(base)["method"] is theirs
    assert base().method() == 20


def test_a_method_that_was_deleted_meanwhile_stays_deleted() -> None:
    """Undoing brings nothing back that somebody has removed."""
    base, _ = make_classes()
    patches = Patches()
    patches.replace(base, "method", plus_one)
    del base.method  # type: ignore[attr-defined]
    patches.undo()
    assert "method" not in vars(base)


def test_a_missing_attribute_is_an_error_and_changes_nothing() -> None:
    """The library has changed: its integration says so."""
    base, _ = make_classes()
    before = dict(vars(base))
    with pytest.raises(AttributeError, match=r"Base.*'nothing'"):
        Patches().replace(base, "nothing", plus_one)
    assert dict(vars(base)) == before


def test_what_is_dressed_looks_like_the_original() -> None:
    """Name, docstring, signature, annotations, own attributes and module."""
    base, _ = make_classes()
    original = vars(base)["method"]
    original.marked = True
    ours = dressed(lambda self, *args: None, original)
    for name in ("__name__", "__qualname__", "__doc__", "__module__", "__annotations__"):
        assert getattr(ours, name) == getattr(original, name)
    assert inspect.signature(ours) == inspect.signature(original)
    assert ours.marked  # type: ignore[attr-defined]
    assert ours.__wrapped__ is original  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------------- importing


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to put modules into, on ``sys.path``; what was imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    importlib.invalidate_caches()


def watching(*names: str) -> tuple[ImportWatcher, list[str]]:
    """A watcher of these modules, and the list of what it was told of."""
    told: list[str] = []

    def hook(name: str) -> Callable[[], None]:
        return lambda: told.append(f"{name}:{getattr(sys.modules.get(name), 'DONE', None)}")

    return ImportWatcher({name: hook(name) for name in names}), told


def test_a_hook_is_called_once_right_after_the_import(library: Path) -> None:
    """The module is complete by then; a reload calls nobody."""
    (library / "lg_driver.py").write_text("DONE = True\n")
    before = list(sys.meta_path)
    watcher, told = watching("lg_driver")
    watcher.install()
    try:
        assert told == []
        module = importlib.import_module("lg_driver")
        assert told == ["lg_driver:True"]
        assert "exec_module" not in vars(module.__loader__)
        importlib.reload(module)
        importlib.import_module("lg_driver")
        assert told == ["lg_driver:True"]
        assert "exec_module" not in vars(module.__loader__)
        assert type(module.__loader__).__name__ == "SourceFileLoader"
        assert module.__spec__ is not None
        assert module.__spec__.loader is module.__loader__
    finally:
        watcher.uninstall()
    assert sys.meta_path == before


def test_a_module_that_was_imported_already_is_told_at_once(library: Path) -> None:
    """Once, with nothing to wait for."""
    (library / "lg_driver.py").write_text("DONE = True\n")
    importlib.import_module("lg_driver")
    watcher, told = watching("lg_driver")
    watcher.install()
    watcher.uninstall()
    assert told == ["lg_driver:True"]


def test_a_failing_import_calls_nobody_and_a_later_one_does(library: Path) -> None:
    """The error is the application's own, and the loader is left as it was."""
    path = library / "lg_driver.py"
    path.write_text("raise RuntimeError('no libpq')\n")
    watcher, told = watching("lg_driver")
    watcher.install()
    try:
        with pytest.raises(RuntimeError, match="no libpq"):
            importlib.import_module("lg_driver")
        assert told == []
        path.write_text("DONE = 'at last'\n")
        importlib.invalidate_caches()
        importlib.import_module("lg_driver")
        assert told == ["lg_driver:at last"]
    finally:
        watcher.uninstall()


def test_a_missing_module_is_still_missing(library: Path) -> None:
    """ModuleNotFoundError, as ever."""
    watcher, told = watching("lg_missing")
    watcher.install()
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("lg_missing")
    finally:
        watcher.uninstall()
    assert told == []


def test_a_package_is_told_after_its_own_code(library: Path) -> None:
    """Also when a submodule is what was asked for; other modules are nobody's business."""
    (library / "lg_pool").mkdir()
    (library / "lg_pool" / "__init__.py").write_text("import lg_other\nDONE = True\n")
    (library / "lg_pool" / "sub.py").write_text("")
    (library / "lg_other.py").write_text("")
    watcher, told = watching("lg_pool")
    watcher.install()
    try:
        importlib.import_module("lg_pool.sub")
    finally:
        watcher.uninstall()
    assert told == ["lg_pool:True"]


def test_installed_in_the_midst_of_an_import_it_waits_for_its_end(library: Path) -> None:
    """A module that is half made is in ``sys.modules`` already: its patches would miss what comes later."""
    (library / "lg_driver.py").write_text("import lg_hook\nDONE = True\n")
    (library / "lg_hook.py").write_text("import sys\nsys.lg_watcher.install()\n")
    watcher, told = watching("lg_driver")
    sys.lg_watcher = watcher  # type: ignore[attr-defined]
    try:
        importlib.import_module("lg_driver")
        assert "lg_driver:None" not in told
    finally:
        del sys.lg_watcher  # type: ignore[attr-defined]
        watcher.uninstall()


def test_after_uninstall_no_hook_is_called(library: Path) -> None:
    """Also not for a module that was being looked for when the watcher went."""
    (library / "lg_driver.py").write_text("import sys\nsys.lg_watcher.uninstall()\n")
    watcher, told = watching("lg_driver")
    sys.lg_watcher = watcher  # type: ignore[attr-defined]
    watcher.install()
    try:
        importlib.import_module("lg_driver")
    finally:
        del sys.lg_watcher  # type: ignore[attr-defined]
        watcher.uninstall()
    assert told == []
    watcher.uninstall()


def test_a_loader_with_slots_is_left_alone(library: Path) -> None:
    """Its module is imported as ever, and simply not seen."""

    class Loader:
        __slots__ = ()

        def create_module(self, spec: object) -> None:
            return None

        def exec_module(self, module: types.ModuleType) -> None:
            module.DONE = True  # type: ignore[attr-defined]

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> object:
            from importlib.machinery import ModuleSpec

            return ModuleSpec(name, Loader()) if name == "lg_slots" else None  # type: ignore[arg-type]

    finder = Finder()
    sys.meta_path.insert(0, finder)  # type: ignore[arg-type]
    watcher, told = watching("lg_slots")
    watcher.install()
    try:
        assert importlib.import_module("lg_slots").DONE
    finally:
        watcher.uninstall()
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
    assert told == []
