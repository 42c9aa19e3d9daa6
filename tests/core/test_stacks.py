"""Stacks: whose code a frame is, where the site is, and that a short stack says the same as a long one."""

from __future__ import annotations

import _thread
import os
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import greenlet
import pytest

import leakguard
from leakguard.register import stacks
from leakguard.register.fingerprint import fingerprint
from leakguard.register.stacks import (
    FULL_STACKS_PER_SITE,
    WINDOW,
    FrameRules,
    Place,
    RawStack,
    Recorder,
    SitePoint,
    is_delivery,
    line_of,
    raw_stack_of,
    resolve,
    site_index,
)
from tests.core.support import library_code, wait_until

STDLIB = str(Path(os.__file__).parent)
SITE_PACKAGES = sysconfig.get_path("purelib")

Captured = tuple[SitePoint | None, RawStack]


def run_in(file: str, source: str, **names: object) -> dict[str, Any]:
    """Run `source` as if it stood in `file`; its names."""
    namespace: dict[str, Any] = dict(names)
    exec(compile(source, file, "exec"), namespace)
    return namespace


def calling(file: str, function: str = "call") -> Callable[[Callable[[], Any]], Any]:
    """A function of `file` that calls what it is given."""
    found: Callable[[Callable[[], Any]], Any] = run_in(file, f"def {function}(go):\n    return go()")[function]
    return found


def site_line(captured: Captured) -> tuple[str, int, str]:
    """File name, line and function of the captured site."""
    assert captured[0] is not None
    site = captured[0].site()
    return Path(site.file).name, site.line, site.function


# ------------------------------------------------------------------------------------------------- whose code it is


@pytest.mark.parametrize(
    ("file", "place"),
    [
        pytest.param("/srv/shop/orders.py", Place.APPLICATION, id="the application"),
        pytest.param("orders.py", Place.APPLICATION, id="a relative path"),
        pytest.param("/srv/psycopg_tools/db.py", Place.APPLICATION, id="a name that only begins like a driver"),
        pytest.param(f"{STDLIB}/queue.py", Place.LIBRARY, id="standard library"),
        pytest.param(f"{STDLIB}/concurrent/futures/thread.py", Place.LIBRARY, id="a package of the standard library"),
        pytest.param(f"{STDLIB}/asyncio/base_events.py", Place.LOOP, id="the event loop"),
        pytest.param(f"{STDLIB}/asyncio/tasks.py", Place.LIBRARY, id="asyncio, but not the loop"),
        pytest.param("/v/lib/python3.11/site-packages/flask/app.py", Place.INSTALLED, id="site-packages"),
        pytest.param("/usr/lib/python3/dist-packages/flask/app.py", Place.INSTALLED, id="dist-packages"),
        pytest.param(f"{STDLIB}/site-packages/flask/app.py", Place.INSTALLED, id="site-packages inside the library"),
        pytest.param("/v/site-packages/psycopg/connection.py", Place.LIBRARY, id="a driver"),
        pytest.param("/v/site-packages/psycopg_pool/pool.py", Place.LIBRARY, id="a pool"),
        pytest.param("/v/site-packages/sqlalchemy/engine/base.py", Place.LIBRARY, id="SQLAlchemy"),
        pytest.param("/v/site-packages/sqlalchemy_utils/x.py", Place.INSTALLED, id="not SQLAlchemy"),
        pytest.param("/v/site-packages/wrapt/__wrapt__.py", Place.LIBRARY, id="wrapt"),
        pytest.param(str(Path(leakguard.__file__).parent / "tracker.py"), Place.LIBRARY, id="leakguard"),
        pytest.param("<frozen importlib._bootstrap>", Place.LIBRARY, id="frozen"),
        pytest.param("<attrs generated init>", Place.LIBRARY, id="generated"),
        pytest.param("<stdin>", Place.APPLICATION, id="typed into the interpreter"),
        pytest.param("<ipython-input-1-abc>", Place.APPLICATION, id="typed into IPython"),
        pytest.param("<python-input-0>", Place.APPLICATION, id="typed into the new interpreter"),
        pytest.param("<doctest shop[0]>", Place.APPLICATION, id="a doctest"),
    ],
)
def test_a_file_tells_whose_code_it_is(file: str, place: Place) -> None:
    """Application, installed package, library or event loop."""
    rules = FrameRules()
    assert rules.place(file) is place
    assert rules.place(file) is place


def test_a_string_is_the_application_only_without_a_main_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """``<string>`` is ``python -c``, but also what exec() makes inside libraries."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert FrameRules().place("<string>") is Place.APPLICATION
    main.__file__ = "/srv/shop/main.py"
    assert FrameRules().place("<string>") is Place.LIBRARY


def test_app_packages_count_as_the_application() -> None:
    """A service that is installed into site-packages: packages, subpackages and single modules, exactly those."""
    rules = FrameRules(("shop", "tools.db", "single"))
    for tail in ("shop/orders.py", "shop/deep/er.py", "tools/db/x.py", "tools/db.py", "single.py"):
        assert rules.place(f"/v/site-packages/{tail}") is Place.APPLICATION, tail
    for tail in ("shopping/orders.py", "tools/other.py", "single_more.py", "lib/shop/orders.py"):
        assert rules.place(f"/v/site-packages/{tail}") is Place.INSTALLED, tail


def test_app_packages_beat_the_drivers() -> None:
    """Whoever works on a driver may say so."""
    assert FrameRules(("psycopg_pool",)).place("/v/site-packages/psycopg_pool/pool.py") is Place.APPLICATION


def test_a_driver_in_a_source_tree_is_still_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install is recognised by the module that was imported from there."""
    module = types.ModuleType("asyncpg")
    module.__file__ = "/home/me/asyncpg/asyncpg/__init__.py"
    monkeypatch.setitem(sys.modules, "asyncpg", module)
    assert FrameRules().place("/home/me/asyncpg/asyncpg/pool.py") is Place.LIBRARY
    assert FrameRules().place("/home/me/asyncpg/tests/test_pool.py") is Place.APPLICATION
    module.__file__ = "/home/me/asyncpg.py"
    assert FrameRules().place("/home/me/asyncpg.py") is Place.LIBRARY
    assert FrameRules().place("/home/me/other.py") is Place.APPLICATION


def test_what_is_remembered_of_files_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """exec() with ever new names does not fill the memory."""
    monkeypatch.setattr(stacks, "SITES_LIMIT", 10)
    rules = FrameRules()
    for number in range(100):
        rules.place(f"/srv/{number}.py")
    assert len(rules.places) <= 11


# ---------------------------------------------------------------------------------------------------------- the site


def test_the_site_is_the_line_of_the_call() -> None:
    """With its file, function and source text."""
    captured = Recorder().capture(0)
    assert captured[0] is not None
    site = captured[0].site()
    assert (site.file, site.function) == (__file__, "test_the_site_is_the_line_of_the_call")
    assert site.code == "captured = Recorder().capture(0)"


def test_the_site_of_a_call_over_several_lines() -> None:
    """Is the line at which the call itself stands, as Python's own tracebacks have it."""
    source = "\n\ndef handler(go):\n    x = 1\n    return go(\n        'a',\n        'b',\n    )\n"
    handler = run_in("/srv/shop/app.py", source)["handler"]
    recorder = Recorder()
    captured = handler(lambda *_: library_code("def f(r):\n    return r.capture(0)")["f"](recorder))
    # the lambda is of this file: one frame further out is the handler
    raw = captured[1]
    frames = resolve(raw, recorder.rules)
    outer = next(frame for frame in frames if frame.function == "handler")
    assert outer.line == 5


@pytest.mark.parametrize("mode", ["auto", "full", "site"])
def test_library_frames_are_never_the_site(mode: str) -> None:
    """The standard library, drivers and leakguard between the application and the acquire are skipped."""
    recorder = Recorder()
    recorder.mode = mode
    below = calling("/v/site-packages/psycopg_pool/pool.py")
    contextlib_like = calling(f"{STDLIB}/contextlib.py")
    app = calling("/srv/shop/orders.py", "export")
    # the lambdas would be application frames of this file: library_code's are not
    glue = library_code("def glue(a, b):\n    def go():\n        return a(b)\n    return go")["glue"]
    capture = library_code("def capture(recorder):\n    return lambda: recorder.capture(0)")["capture"](recorder)
    captured = app(glue(contextlib_like, glue(below, capture)))
    assert site_line(captured) == ("orders.py", 2, "export")


def test_an_installed_package_is_the_site_where_no_application_is() -> None:
    """A framework that acquires by itself, on a thread of its own."""
    recorder = Recorder()
    capture = library_code("def capture(recorder):\n    return lambda: recorder.capture(0)")["capture"](recorder)
    worker = calling("/v/site-packages/celery/worker.py", "work")
    raw = tuple_of(worker, capture)
    at = site_index(raw, recorder.rules)
    assert at is not None
    assert raw[at].co_name == "work"  # type: ignore[union-attr]


def tuple_of(worker: Callable[[Any], Any], capture: Callable[[], Captured]) -> RawStack:
    """The part of a captured stack that ends at the worker, as if it were its thread's first function."""
    raw = worker(capture)[1]
    names = [code.co_name for code in raw[::2]]
    return tuple(raw[: 2 * (names.index("work") + 1)])


def test_a_stack_of_libraries_alone_has_no_site() -> None:
    """``create_task(pool.getconn())``: null, and it counts as a delivery."""
    rules = FrameRules()
    raw = (compile("1", f"{STDLIB}/queue.py", "exec"), 0)
    assert site_index(raw, rules) is None
    assert is_delivery(raw, rules)
    assert not is_delivery((), rules)
    assert not is_delivery((compile("1", "/srv/app.py", "exec"), 0), rules)


def test_what_lies_beyond_the_loop_only_runs_it() -> None:
    """An application frame beyond the event loop's is no sign that the task is the application's."""
    rules = FrameRules()
    loop = compile("1", f"{STDLIB}/asyncio/base_events.py", "exec")
    raw = (compile("1", f"{STDLIB}/queue.py", "exec"), 0, loop, 0, compile("1", "/srv/app.py", "exec"), 0)
    assert is_delivery(raw, rules)


def test_a_decorators_wrapper_is_part_of_the_stack() -> None:
    """Of two application frames the inner one is the site, also where that is a decorator's."""
    recorder = Recorder()

    def retried(function: Callable[[], Captured]) -> Callable[[], Captured]:
        def wrapper() -> Captured:
            return function()

        return wrapper

    @retried
    def handler() -> Captured:
        return recorder.capture(0)

    captured = handler()
    assert site_line(captured)[2] == "handler"
    names = [code.co_name for code in captured[1][:4:2]]  # type: ignore[union-attr]
    assert names == ["handler", "wrapper"]


def test_a_recursion_keeps_its_site_and_its_name() -> None:
    """Innermost frame, however deep; one bug."""
    recorder = Recorder()

    def dive(depth: int) -> Captured:
        return dive(depth - 1) if depth else recorder.capture(0)

    shallow, deep, deeper = dive(1), dive(20), dive(50)
    assert site_line(shallow) == site_line(deep)
    assert site_line(deep)[2] == "dive"
    prints = {fingerprint(captured[1], "psycopg", recorder.rules) for captured in (deep, deeper)}
    assert len(prints) == 1


# ----------------------------------------------------------------------------------------------------- how much stack


def test_the_first_holds_of_a_site_get_full_stacks() -> None:
    """Then a window is enough, until the site looks suspicious."""
    recorder = Recorder()

    def acquire() -> Captured:
        return recorder.capture(0)

    sizes = [len(acquire()[1]) // 2 for _ in range(FULL_STACKS_PER_SITE + 2)]
    assert all(size > WINDOW for size in sizes[:FULL_STACKS_PER_SITE])
    assert sizes[FULL_STACKS_PER_SITE:] == [WINDOW, WINDOW]
    point = acquire()[0]
    assert point is not None
    point.suspect = True
    assert len(acquire()[1]) // 2 > WINDOW


@pytest.mark.parametrize(
    ("mode", "frames"), [("full", "all"), ("site", "one"), ("off", "none")], ids=["full", "site", "off"]
)
def test_the_other_modes(mode: str, frames: str) -> None:
    """Always everything, the site alone, or nothing at all."""
    recorder = Recorder()
    recorder.mode = mode
    for _ in range(5):
        point, raw = recorder.capture(0)
        everything = recorder.capture_all(0)[1]
        assert len(raw) == {"all": len(everything), "one": 2, "none": 0}[frames]
        assert (point is None) == (mode == "off")


def test_window_and_full_stack_give_one_fingerprint() -> None:
    """The third hold of a line and the fourth are one bug."""
    recorder = Recorder()

    def acquire() -> Captured:
        return recorder.capture(0)

    stacks_of = [acquire()[1] for _ in range(FULL_STACKS_PER_SITE + 2)]
    assert len({len(raw) for raw in stacks_of}) == 2
    assert len({fingerprint(raw, "psycopg", recorder.rules) for raw in stacks_of}) == 1


@pytest.mark.parametrize("depth", range(1, 8))
def test_a_shallow_stack_is_taken_as_it_is(depth: int) -> None:
    """Fewer frames than the window: on a thread of its own, no frame is invented or lost."""
    recorder = Recorder()
    names: dict[str, Any] = {"recorder": recorder}
    source = "\n".join(f"def f{n}():\n    return f{n - 1}()" for n in range(1, depth))
    exec(compile(f"def f0():\n    return recorder.capture(0)\n{source}", "/srv/app.py", "exec"), names)
    result: list[Captured] = []

    def run() -> None:
        for _ in range(FULL_STACKS_PER_SITE + 1):
            result.append(names[f"f{depth - 1}"]())  # noqa: PERF401 - a comprehension has a frame of its own

    # A greenlet's first frame has no caller, like a thread's.
    greenlet.greenlet(run).switch()
    raw = result[-1][1]
    expected = [f"f{n}" for n in range(depth)]
    assert [code.co_name for code in raw[::2]][:depth] == expected[:WINDOW]  # type: ignore[union-attr]
    assert len(raw) // 2 == min(WINDOW, depth + 1)


def test_the_stack_goes_on_with_the_parent_greenlet() -> None:
    """Under SQLAlchemy's async engines the application's frames are on the parent."""
    recorder = Recorder()
    library = library_code("def run(recorder):\n    return recorder.capture(0)")["run"]
    captured = greenlet.greenlet(library).switch(recorder)
    assert site_line(captured)[2] == "test_the_stack_goes_on_with_the_parent_greenlet"
    names = [code.co_name for code in captured[1][::2]]
    assert names[:2] == ["run", "test_the_stack_goes_on_with_the_parent_greenlet"]


def test_the_hub_of_gevent_is_nobodys_parent() -> None:
    """It runs its greenlets as a loop runs tasks: whoever waits for one has not called it."""
    gevent = pytest.importorskip("gevent")
    recorder = Recorder()
    library = library_code("def run(recorder):\n    return recorder.capture(0)")["run"]
    site, raw = gevent.spawn(library, recorder).get()
    assert site is None
    assert [code.co_name for code in raw[::2]] == ["run"]


@pytest.mark.parametrize("capture", ["capture", "capture_all"])
def test_a_function_that_nobody_called(capture: str) -> None:
    """A greenlet or thread that was started on the library's own function has no caller: no site, but a delivery."""
    recorder = Recorder()
    found: list[Captured] = []
    library = library_code("def run(found, capture):\n    found.append(capture(5))")["run"]
    _thread.start_new_thread(library, (found, getattr(recorder, capture)))
    wait_until(lambda: bool(found))
    ((site, raw),) = found
    assert site is None
    assert is_delivery(raw, recorder.rules)


def test_a_deep_stack_is_cut() -> None:
    """At a hundred frames."""
    recorder = Recorder()

    def dive(depth: int) -> Captured:
        return dive(depth - 1) if depth else recorder.capture_all(0)

    raw = dive(300)[1]
    assert len(raw) == 2 * stacks.FULL_DEPTH
    assert len(raw_stack_of(sys._getframe())) <= 2 * stacks.FULL_DEPTH


def test_what_is_remembered_of_sites_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated code makes sites without end."""
    monkeypatch.setattr(stacks, "SITES_LIMIT", 10)
    recorder = Recorder()
    for number in range(50):
        run_in("/srv/app.py", f"def f{number}(r):\n    return r.capture(0)")[f"f{number}"](recorder)
    assert len(recorder._points) <= 11


def test_one_line_is_one_point_and_two_lines_are_two() -> None:
    """What is learned of a line is kept for that line alone."""
    recorder = Recorder()
    points = [recorder.capture(0)[0] for _ in range(3)]
    other = recorder.capture(0)[0]
    assert points[0] is points[1] is points[2]
    assert other is not points[0]


def test_two_points_that_share_a_key_take_turns() -> None:
    """The key is an id plus an offset: the point that stands there may be a neighbour's."""
    recorder = Recorder()

    def acquire() -> Captured:
        return recorder.capture(0)

    mine = acquire()[0]
    assert mine is not None
    (key,) = recorder._points
    for neighbour in (SitePoint(calling("/srv/a.py").__code__, mine.lasti), SitePoint(mine.code, mine.lasti + 2)):
        recorder._points[key] = neighbour
        found = acquire()[0]
        assert found is not None
        assert (found.code, found.lasti) == (mine.code, mine.lasti)


# ----------------------------------------------------------------------------------------------------------- resolving


def test_every_instruction_knows_its_line() -> None:
    """From the first byte of a line's range to the last."""
    code = test_every_instruction_knows_its_line.__code__
    for start, end, line in code.co_lines():
        if line is not None:
            assert [line_of(code, lasti) for lasti in range(start, end, 2)] == [line] * len(range(start, end, 2))


def test_resolved_frames_say_file_line_function_and_whose() -> None:
    """Innermost first, without leakguard's own."""
    recorder = Recorder()
    raw = (
        *(Recorder.capture.__code__, 0),
        *(calling(f"{STDLIB}/queue.py").__code__, 0),
        *(calling("/srv/app.py", "handler").__code__, 0),
    )
    frames = resolve(raw, recorder.rules)
    assert [(frame.file, frame.function, frame.app) for frame in frames] == [
        (f"{STDLIB}/queue.py", "call", False),
        ("/srv/app.py", "handler", True),
    ]


def test_a_site_without_source_has_no_code() -> None:
    """Code from nowhere has a line, but no text."""
    point = SitePoint(calling("/nowhere/app.py").__code__, 0)
    assert point.site().code is None
    assert point.site().file == "/nowhere/app.py"


def test_the_line_of_an_instruction_that_has_none_is_the_functions() -> None:
    """Better the first line than an error."""
    code = calling("/srv/app.py").__code__
    assert line_of(code, 10_000) == code.co_firstlineno
