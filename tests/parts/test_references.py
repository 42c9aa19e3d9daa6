"""Reference paths: every kind of holder by name, nothing where nothing holds, and never a call into foreign code."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import re
import sys
import threading
import time
import types
import weakref
from collections import OrderedDict, deque
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from leakguard.references import ReferencePath, reference_path
from leakguard.references.search import Search

HERE = Path(__file__).name


class Conn:
    """Stands for a connection."""


class Repo:
    def __init__(self, conn):
        self._conn = conn


class Slotted:
    __slots__ = ("conn",)

    def __init__(self, conn):
        self.conn = conn


CACHE: dict[str, object] = {}
GLOBAL = None


def path_to(ref, *, budget=60.0, **limits):
    """The path to what the weak reference stands for: the test itself then holds nothing. No haste by default, since
    the machine may be busy."""
    return reference_path(ref(), budget=budget, **limits)


def words(ref):
    found = path_to(ref)
    assert found.cut is None
    return [step.words for step in found.steps]


def held_in(make):
    """Has `make(conn)` wrap a new connection; returns the holder and a weak reference to the connection."""
    conn = Conn()
    ref = weakref.ref(conn)
    return make(conn), ref


def local(name, function=r"test_\w+"):
    return rf"local `{name}` of the running frame {function}\(\) at .*{HERE}:\d+ \(thread MainThread\)"


# --------------------------------------------------------------------------------------------------------- holders


def test_local_of_the_running_frame():
    """What the collector cannot see: a plain local of the frame that runs."""
    conn = Conn()
    found = reference_path(conn)
    assert re.fullmatch(local("conn", "test_local_of_the_running_frame"), found.steps[0].words)
    assert (len(found.steps), found.rooted, found.cut) == (1, True, None)
    assert found.steps[0].kind == "local"
    assert found.steps[0].name == "conn"
    assert Path(found.steps[0].file).name == HERE


def test_local_of_another_thread_with_its_name():
    """A local of a frame of another thread, with that thread's name."""
    ready, done = threading.Event(), threading.Event()
    refs = []

    def export():
        conn = Conn()
        refs.append(weakref.ref(conn))
        ready.set()
        done.wait(10)

    thread = threading.Thread(target=export, name="worker-1")
    thread.start()
    try:
        assert ready.wait(10)
        (found,) = words(refs[0])
    finally:
        done.set()
        thread.join()
    assert re.fullmatch(rf"local `conn` of the running frame export\(\) at .*{HERE}:\d+ \(thread worker-1\)", found)
    assert refs[0]() is None


@pytest.mark.parametrize(
    ("make", "first"),
    [
        pytest.param(Repo, "attribute `_conn` of a Repo", id="attribute"),
        pytest.param(Slotted, "attribute `conn` of a Slotted", id="slot"),
        pytest.param(lambda conn: {"a": conn}, "key 'a' of a dict", id="dict"),
        pytest.param(lambda conn: {conn: 1}, "a key of a dict", id="dict key"),
        pytest.param(lambda conn: {"eve@example.org": conn}, "a str key of a dict", id="key that is a value"),
        pytest.param(lambda conn: {"s3cr3t0815t0ken": conn}, "a str key of a dict", id="key that may be a token"),
        pytest.param(lambda conn: {4711: conn}, "a int key of a dict", id="number as key"),
        pytest.param(lambda conn: OrderedDict(a=conn), "key 'a' of an OrderedDict", id="subclass of dict"),
        pytest.param(lambda conn: [0, 1, 2, conn], "item 3 of a list", id="list"),
        pytest.param(lambda conn: (0, conn), "item 1 of a tuple", id="tuple"),
        pytest.param(lambda conn: deque([conn]), "item 0 of a deque", id="deque"),
        pytest.param(lambda conn: {conn}, "member of a set", id="set"),
    ],
)
def test_container(make, first):
    """Attributes, slots, items and members are named; keys only where they read like names in a program."""
    holder, ref = held_in(make)
    steps = words(ref)
    assert steps[0] == first
    assert re.fullmatch(local("holder"), steps[1])
    assert len(steps) == 2
    del holder
    assert ref() is None


def test_chain_of_holders_ends_in_a_module_global():
    """An attribute in a dictionary in a module: three steps, the namespace is none of its own."""
    CACHE["a"], ref = held_in(Repo)
    try:
        assert words(ref) == [
            "attribute `_conn` of a Repo",
            "key 'a' of a dict",
            f"module global `CACHE` of {__name__}",
        ]
        assert str(path_to(ref)).startswith("attribute `_conn` of a Repo, in key 'a' of a dict, in module global")
    finally:
        CACHE.clear()
    assert ref() is None


def test_module_global_itself():
    """The connection is a module's global: that is all there is to say."""
    global GLOBAL
    GLOBAL, ref = held_in(lambda conn: conn)
    try:
        assert words(ref) == [f"module global `GLOBAL` of {__name__}"]
    finally:
        GLOBAL = None
    assert ref() is None


@pytest.mark.parametrize("name", ["leakguard_shop", "leakguard.demo.shop"])
def test_module_with_a_name_like_leakguards(monkeypatch, name):
    """An application may be called so, and the demo is one: its globals are roots like any other's."""
    module = types.ModuleType(name)
    module.__file__ = __file__
    monkeypatch.setitem(sys.modules, name, module)
    module.CACHE, ref = held_in(lambda conn: conn)
    try:
        assert words(ref) == [f"module global `CACHE` of {name}"]
    finally:
        del module.CACHE
    assert ref() is None


def test_module_of_leakguards_own(monkeypatch):
    """Its clean twin: what leakguard itself refers to, the application need not know."""
    module = types.ModuleType("leakguard.shop")
    monkeypatch.setitem(sys.modules, "leakguard.shop", module)
    module.CACHE, ref = held_in(lambda conn: conn)
    try:
        assert "CACHE" not in str(path_to(ref))
    finally:
        del module.CACHE


def test_class_attribute():
    """A class holds it: a class is a root, since its module keeps it."""
    _, ref = held_in(lambda conn: setattr(Repo, "shared", conn))
    try:
        assert words(ref) == ["class attribute `shared` of Repo"]
    finally:
        del Repo.shared
    assert ref() is None


def test_generator():
    """A suspended generator, with the local and the line at which it waits."""

    def rows(conn):
        yield 1
        print(conn)

    holder, ref = held_in(rows)
    next(holder)
    steps = words(ref)
    assert re.fullmatch(rf"local `conn` of suspended generator rows\(\) at .*{HERE}:\d+", steps[0])
    line = int(steps[0].rpartition(":")[2])
    assert "yield 1" in Path(__file__).read_text().splitlines()[line - 1]
    assert re.fullmatch(local("holder"), steps[1])
    holder.close()
    assert ref() is None


def test_async_generator():
    """The same for a generator of the asynchronous kind."""

    async def rows(conn):
        yield 1
        print(conn)

    holder, ref = held_in(rows)
    with pytest.raises(StopIteration):
        holder.__anext__().send(None)
    assert words(ref)[0].startswith("local `conn` of suspended async generator rows() at ")
    with pytest.raises(StopIteration):
        holder.aclose().send(None)
    assert ref() is None


async def test_coroutine_of_a_task():
    """A suspended coroutine, and the task that runs it."""
    never = asyncio.Event()

    async def fetch(conn):
        await never.wait()
        print(conn)

    task, ref = held_in(lambda conn: asyncio.create_task(fetch(conn), name="export-4711"))
    await asyncio.sleep(0)
    steps = words(ref)
    assert re.fullmatch(rf"local `conn` of suspended coroutine fetch\(\) at .*{HERE}:\d+", steps[0])
    assert steps[1:] == ["task export-4711"]
    never.set()
    await task
    assert ref() is None


async def test_coroutine_that_is_awaited_by_another():
    """The way from the coroutine that has the local to its task leads through the one that awaits it."""
    never = asyncio.Event()

    async def inner(conn):
        await never.wait()
        print(conn)

    async def outer(holder):
        await inner(holder.pop())

    task, ref = held_in(lambda conn: asyncio.create_task(outer([conn]), name="t"))
    await asyncio.sleep(0)
    steps = words(ref)
    assert steps[0].startswith("local `conn` of suspended coroutine inner() at ")
    assert steps[1].startswith("awaited in suspended coroutine outer() at ")
    assert steps[2:] == ["task t"]
    never.set()
    await task


def test_suspended_greenlet():
    """The frames of a greenlet that waits run nowhere and are on no list: they are looked at, too."""
    greenlet = pytest.importorskip("greenlet")
    refs = []

    def work():
        conn = Conn()
        refs.append(weakref.ref(conn))
        greenlet.getcurrent().parent.switch()
        print(conn)

    waiting = greenlet.greenlet(work)
    waiting.switch()
    (step,) = words(refs[0])
    assert re.fullmatch(rf"local `conn` of the suspended greenlet's frame work\(\) at .*{HERE}:\d+", step)
    waiting.switch()
    assert refs[0]() is None


def test_closure():
    """A closed-over cell, with the function that has it."""

    def make(conn):
        def use():
            return conn

        return use

    holder, ref = held_in(make)
    steps = words(ref)
    assert callable(holder)
    assert steps[0] == "closure cell `conn` of test_closure.<locals>.make.<locals>.use()"
    assert re.fullmatch(local("holder"), steps[1])


def test_default_argument_bound_method_and_partial():
    """The other ways in which a callable keeps something."""

    def with_default(conn):
        def use(c=conn):
            return c

        return use

    holder, ref = held_in(with_default)
    assert words(ref)[0].startswith("a default argument of ")
    holder, ref = held_in(lambda conn: functools.partial(print, conn))
    assert words(ref)[:2] == ["item 0 of a tuple", "attribute `args` of a partial"]
    holder, ref = held_in(lambda conn: Repo(conn).__init__)
    assert words(ref)[:2] == ["attribute `_conn` of a Repo", "the bound method __init__()"]
    del holder


def test_traceback_of_a_stored_exception():
    """An exception that somebody keeps pins the locals of every frame it went through."""

    def fails(conn):
        raise ValueError

    def catch(conn):
        try:
            fails(conn)
        except ValueError as error:
            return error

    holder, ref = held_in(catch)
    steps = words(ref)
    assert re.fullmatch(rf"local `conn` of the ended frame (catch|fails)\(\) at .*{HERE}:\d+", steps[0])
    assert re.fullmatch(rf"traceback of a stored ValueError \(raised at .*{HERE}:\d+\)", steps[1])
    raised = int(re.search(r":(\d+)\)", steps[1])[1])
    assert "raise ValueError" in Path(__file__).read_text().splitlines()[raised - 1]
    assert re.fullmatch(local("holder"), steps[2])
    holder.__traceback__ = None
    assert ref() is None


def test_exception_that_is_being_handled():
    """The exception of a running ``except`` block is on no list of the collector's."""

    def fails(conn):
        raise ValueError

    ref = None
    try:
        conn = Conn()
        ref = weakref.ref(conn)
        fails(conn)
    except ValueError:
        del conn
        steps = words(ref)
        assert steps[0].startswith("local `conn` of the ended frame fails() at ")
        assert steps[-1] == "the exception being handled in thread MainThread, a ValueError"
    assert ref() is None


def test_thread_local_and_context_variable():
    """Both are found, though not by name: there is something to look for."""
    holder = threading.local()
    holder.conn, ref = held_in(lambda conn: conn)
    assert words(ref)[0] == "key 'conn' of a dict"
    del holder.conn
    variable = contextvars.ContextVar("variable")
    token, ref = held_in(variable.set)
    assert path_to(ref)
    variable.reset(token)


# -------------------------------------------------------------------------------------------------------- nothing


def test_nothing_refers_to_it():
    """The twin of all of the above: an object that only a call's own argument keeps."""
    found = reference_path(Conn(), budget=60.0)
    assert found == ReferencePath(steps=(), rooted=False, cut=None)
    assert not found
    assert str(found) == "nothing that Python can see"


def test_weak_references_do_not_count():
    """A weak dictionary, a weak set and a finalizer keep nothing."""
    conn = Conn()
    ref = weakref.ref(conn)
    cache = weakref.WeakValueDictionary(a=conn)
    weakref.finalize(conn, print)
    (step,) = words(ref)
    assert re.fullmatch(local("conn"), step)
    del conn
    assert ref() is None
    assert not cache


def test_reference_cycle_that_nothing_holds():
    """A garbage cycle is no root: it is said that nothing else can be seen."""

    def make(conn):
        holder = {"conn": conn}
        holder["self"] = holder

    gc.disable()
    try:
        _, ref = held_in(make)
        del _
        found = path_to(ref)
        assert [step.words for step in found.steps] == ["key 'conn' of a dict"]
        assert not found.rooted
        assert found.cut is None
        assert "a reference cycle, or C code" in str(found)
    finally:
        gc.enable()
        gc.collect()
    assert ref() is None


def test_cycle_that_is_held():
    """A cycle on the way is walked through once."""
    holder, ref = held_in(lambda conn: Repo({"conn": conn}))
    holder._conn["me"] = holder
    assert words(ref)[:2] == ["key 'conn' of a dict", "attribute `_conn` of a Repo"]
    assert re.fullmatch(local("holder"), words(ref)[2])


def test_nothing_stays_alive_and_nothing_grows():
    """After the search its own lists are gone, and a local that is deleted afterwards dies at once (before Python
    3.13 a look at the locals leaves a copy of them on the frame)."""
    conn = Conn()
    ref = weakref.ref(conn)
    gc.collect()
    gc.disable()
    try:
        reference_path(conn)
        before = len(gc.get_objects())
        for _ in range(3):
            reference_path(conn)
        assert len(gc.get_objects()) - before < 20
        assert sys.getrefcount(conn) == 2
        del conn
        assert ref() is None
    finally:
        gc.enable()


def test_locals_of_a_generator_die_with_it():
    """The same for a frame that is suspended while it is looked at."""

    def rows(conn):
        yield 1
        del conn
        yield 2

    holder, ref = held_in(rows)
    next(holder)
    assert words(ref)
    next(holder)
    assert ref() is None


def test_locals_that_the_application_asked_for_stay_as_they_are():
    """A dictionary that ``locals()`` returned belongs to the application."""
    conn = Conn()
    mine = locals()
    reference_path(conn)
    assert mine["conn"] is conn


def test_a_debugger_keeps_its_variables():
    """A thread that a trace function has stopped goes on with every local as it was: looking at it deletes none."""
    stopped, go_on = threading.Event(), threading.Event()
    results = []

    def trace(frame, event, _):
        if frame.f_code.co_name == "debugged" and event == "line" and "b" in frame.f_code.co_varnames:
            stopped.set()
            go_on.wait(10)
        return trace

    def debugged(conn):
        a = 1
        b = a + 1
        results.append((conn, a, b))

    def start():
        sys.settrace(trace)
        try:
            debugged(found)
        finally:
            sys.settrace(None)

    found = Conn()
    thread = threading.Thread(target=start)
    thread.start()
    try:
        assert stopped.wait(10)
        reference_path(found)
    finally:
        go_on.set()
        thread.join()
    assert results == [(found, 1, 2)]


# ----------------------------------------------------------------------------------------------------- never ask


def test_hostile_objects_are_never_asked():
    """No special method of a foreign object or class runs, whatever it is and wherever it stands."""
    called = []

    def trap(name):
        def method(*args, **kwargs):
            called.append(name)
            raise RuntimeError(name)

        return method

    names = (
        "getattribute getattr repr str eq ne hash bool len iter contains getitem instancecheck subclasscheck call dir"
    )
    traps = {f"__{name}__": trap(name) for name in names.split()}
    meta = type("Meta", (type,), {k: v for k, v in traps.items() if k != "__call__"} | {"__call__": type.__call__})
    body = {**traps, "__class__": property(trap("class")), "__dict__": property(trap("dict"))}

    def hostile(name, bases=()):
        cls = type.__call__(meta, name, bases, dict(body))
        return object.__new__(cls) if not bases else bases[0].__new__(cls)

    conn = hostile("HostileConn")
    inner = hostile("HostileList", (list,))
    list.append(inner, conn)
    middle = hostile("HostileDict", (dict,))
    dict.__setitem__(middle, "a", inner)
    outer = hostile("Holder")
    try:
        object.__setattr__(outer, "middle", middle)
    except RuntimeError:
        pass
    called.clear()
    stack = [conn]
    del conn
    probe = stack.pop
    steps = [step.words for step in reference_path(probe(), budget=60.0).steps]
    assert called == []
    assert steps[0] == "item 0 of a HostileList"
    assert re.fullmatch(local("inner"), steps[1])


def test_hostile_property_and_slots():
    """Names are found by identity in namespaces and slots: properties do not run."""
    called = []

    class Shy:
        @property
        def conn(self):
            called.append("property")

        def __getattr__(self, name):
            called.append(name)

    holder, ref = held_in(lambda conn: Shy())
    conn = Conn()
    holder.__dict__["_real"] = conn
    ref = weakref.ref(conn)
    del conn
    assert words(ref)[0] == "attribute `_real` of a Shy"
    assert called == []


def test_names_do_not_move_the_cursor():
    """A type, thread or attribute with control characters in its name is shown escaped."""
    evil = type("Evil\x1b[2J", (), {})
    holder, ref = held_in(lambda conn: evil())
    conn = Conn()
    ref = weakref.ref(conn)
    holder.__dict__["a\nb"] = conn
    del conn
    (first, *_) = words(ref)
    assert first == "attribute `a\\nb` of an Evil\\x1b[2J"


# -------------------------------------------------------------------------------------------------------- limits


def test_huge_heap_is_cut_and_says_so():
    """Beyond the limit the search goes from the frames and modules inwards, and says where it gave up."""
    conn = Conn()
    (step,) = reference_path(conn, max_objects=10).steps
    assert re.fullmatch(local("conn"), step.words)
    hidden, ref = held_in(lambda conn: [[[[[conn]]]]])
    found = path_to(ref, max_objects=10)
    assert "more than 10 objects" in found.cut
    assert "more than 10 objects" in str(found)
    del hidden


def test_huge_heap_from_outside(monkeypatch):
    """The search inwards finds the same chain as the one outwards."""
    CACHE["a"], ref = held_in(Repo)
    try:
        expected = words(ref)
        monkeypatch.setattr(Search, "_is_huge", lambda self: True)
        assert words(ref) == expected
    finally:
        CACHE.clear()


async def test_huge_heap_with_a_task(monkeypatch):
    """The event loop's frame leads to the tasks, also from outside."""
    monkeypatch.setattr(Search, "_is_huge", lambda self: True)
    never = asyncio.Event()

    async def fetch(conn):
        await never.wait()
        print(conn)

    refs = [held_in(lambda conn: asyncio.create_task(fetch(conn), name="t"))[1]]
    await asyncio.sleep(0)
    steps = words(refs[0])
    assert steps[0].startswith("local `conn` of suspended coroutine fetch()")
    never.set()
    await asyncio.sleep(0)


def test_out_of_time_is_said():
    """Without time for a pass over the heap, the frames are still looked at."""
    conn = Conn()
    assert reference_path(conn, budget=0.0).rooted
    holder, ref = held_in(Repo)
    found = path_to(ref, budget=0.0)
    assert found.steps == ()
    assert found.cut == "the search was cut: out of time"
    del holder


@pytest.mark.slow
def test_many_referrers_stay_within_bounds():
    """Something that ten thousand objects refer to costs no more than its budget, roughly."""
    holders, ref = held_in(lambda conn: [Repo(conn) for _ in range(10_000)])
    begun = time.perf_counter()
    found = path_to(ref, budget=0.25)
    assert time.perf_counter() - begun < 5
    if found.cut is None:
        assert re.fullmatch(r"item \d+ of a list", found.steps[1].words)
    del holders


# ------------------------------------------------------------------------------------------------ real libraries


def test_sqlalchemy_connection_and_session(dsn):
    """What the application holds is named; SQLAlchemy's own objects in between are one step."""
    engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            ref = weakref.ref(connection.connection.driver_connection)
            steps = words(ref)
            assert steps[0] == "the Connection of sqlalchemy"
            assert re.fullmatch(local("connection"), steps[1])
            assert len(steps) == 2
        del connection
        with Session(engine) as session:
            session.execute(sqlalchemy.text("SELECT 1"))
            ref = weakref.ref(session.connection().connection.driver_connection)
            steps = words(ref)
            assert steps[0] == "the Session of sqlalchemy"
            assert re.fullmatch(local("session"), steps[1])
        del session
        holder = Repo(Session(engine))
        holder._conn.execute(sqlalchemy.text("SELECT 1"))
        ref = weakref.ref(holder._conn.connection().connection.driver_connection)
        assert words(ref)[:2] == ["the Session of sqlalchemy", "attribute `_conn` of a Repo"]
        holder._conn.close()
    finally:
        engine.dispose()


async def test_sqlalchemy_async_session(dsn):
    """The asynchronous session is what the application holds, not the sync one inside of it."""
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))
    try:
        session = AsyncSession(engine)
        await session.execute(sqlalchemy.text("SELECT 1"))
        ref = weakref.ref((await (await session.connection()).get_raw_connection()).driver_connection)
        steps = words(ref)
        assert steps[0] == "the AsyncSession of sqlalchemy"
        assert re.fullmatch(local("session"), steps[1])
        await session.close()
    finally:
        await engine.dispose()


def test_psycopg_pool(dsn):
    """A checkout is held by its local; back in the pool, by the pool's own list."""
    with ConnectionPool(dsn, min_size=1, max_size=1, open=True) as pool:
        conn = pool.getconn()
        ref = weakref.ref(conn)
        (step,) = words(ref)
        assert re.fullmatch(local("conn"), step)
        pool.putconn(conn)
        del conn
        assert words(ref) == ["the pool's own list"]


def test_psycopg_cursor(dsn):
    """Who keeps only a cursor keeps its connection."""
    cursor = psycopg.connect(dsn).cursor()
    ref = weakref.ref(cursor.connection)
    steps = words(ref)
    assert steps[0] == "the Cursor of psycopg"
    assert re.fullmatch(local("cursor"), steps[1])
    cursor.connection.close()
