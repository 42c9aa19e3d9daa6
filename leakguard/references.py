"""Why is it still alive? The shortest chain of what refers to an object, from the object outwards to a root.

A root is a local variable of a running frame, an exception that is being handled, a module's global, a class or a task.
The collector knows everything else, but not the locals of a frame that runs now: those are read from the frames.

Only types, names and identities are looked at: nothing here calls the application's code (no ``repr``, ``==``,
``hash``, ``isinstance`` or attribute access on a foreign object), and nothing stays alive or is changed afterwards.
A search stops the world for about 10 ms per 100,000 objects and step, so it is made on demand only, within a budget.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CellType,
    CodeType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    TracebackType,
)
from typing import Any, Final, Literal, cast

from leakguard import redact
from leakguard.process import heap
from leakguard.register.stacks import FrameRules, Place

StepKind = Literal[
    "local", "global", "class", "attribute", "item", "closure", "traceback", "task", "library", "pool", "other"
]

MAX_STEPS: Final = 40
"""The longest chain that is followed."""
_WIDTH: Final = 2_000
"""The most objects that are followed at one distance; what is referred to from more places is cut."""
_BATCH: Final = 50
"""How many objects one pass over the heap looks for: its cost grows with their number."""

_INWARDS: Final = 1_000
"""How many of a container's contents are looked into where the search goes inwards."""

_LIBRARIES: Final = frozenset({"aiosqlite", "asyncpg", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "sqlite3"})
_SUSPENDABLE: Final[tuple[tuple[object, str, str], ...]] = (
    (CoroutineType, "coroutine", "cr"),
    (GeneratorType, "generator", "gi"),
    (AsyncGeneratorType, "async generator", "ag"),
)
_PLAIN: Final[tuple[object, ...]] = (dict, list, tuple, set, frozenset, deque, CellType, MethodType)
_OWN: Final = os.path.dirname(__file__) + os.sep  # noqa: PTH120 - compared with what code objects say
_OWN_DEMO: Final = os.path.join(_OWN, "demo") + os.sep  # noqa: PTH118

# Descriptors taken from `type` itself: a metaclass may override every one of these names, but not these.
_type_vars: Final[Any] = type.__dict__
_mro_of: Final = _type_vars["__mro__"].__get__
_dict_of: Final = _type_vars["__dict__"].__get__
_name_of: Final = _type_vars["__name__"].__get__
_module_of: Final = _type_vars["__module__"].__get__
_vars_of_module: Final = cast("Any", vars(ModuleType))["__dict__"].__get__
_traceback_of: Final = cast("Any", vars(BaseException))["__traceback__"].__get__


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One link: what it is, in words, and where that is known its name and place in the source."""

    words: str
    kind: StepKind
    name: str | None = None
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePath:
    """What keeps an object alive, from the object outwards. No steps: nothing that Python can see refers to it.

    `rooted` says whether the chain ends at something that is alive by itself. Where it does not, and `cut` (why the
    search ended early) is None, only a reference cycle or C code holds the object. A rooted chain that was `cut` is a
    library's own: the application's was not found in time.
    """

    steps: tuple[Step, ...]
    rooted: bool
    cut: str | None

    def __bool__(self) -> bool:
        return bool(self.steps)

    def __str__(self) -> str:
        words = ", in ".join(step.words for step in self.steps) or "nothing that Python can see"
        if self.cut is not None:
            return f"{words} ({self.cut})"
        if self.steps and not self.rooted:
            return f"{words}, in nothing else that Python can see (a reference cycle, or C code)"
        return words


def reference_path(obj: object, *, budget: float = 0.25, max_objects: int = 1_000_000) -> ReferencePath:
    """The shortest chain from `obj` to what keeps it alive; the application's own chain rather than a library's.

    The search ends after about `budget` seconds. In a heap of more than `max_objects` it goes from the running frames
    and the modules inwards, through so many objects at most. The caller's frame counts unless it is leakguard's.
    Thread-safe. Other threads go on meanwhile, so a chain may be out of date when it is returned.
    """
    search = _Search(obj, time.perf_counter() + budget, max_objects)
    try:
        return search.run()
    finally:
        search.forget()


# ------------------------------------------------------------------------------------------------------- the search


class _Node:
    """An object on the way, and the one that it refers to, one step nearer to the object in question."""

    __slots__ = ("app", "inner", "library", "obj")

    def __init__(self, obj: object, inner: _Node | None, *, app: bool = False, library: bool = True) -> None:
        self.obj = obj
        self.inner = inner
        self.app = app  # whether something of the application's is on the way to here
        self.library = library  # whether there is nothing but a library's on the way to here


class _Root:
    """Where a chain may end: the step that says it, and whose it is."""

    __slots__ = ("place", "step")

    def __init__(self, step: Step, place: Place) -> None:
        self.step = step
        self.place = place


class _Search:
    def __init__(self, obj: object, deadline: float, max_objects: int) -> None:
        self._deadline = deadline
        self._max_objects = max_objects
        self._start = _Node(obj, None)
        self._rules = FrameRules()
        self._locals: dict[int, _Root] = {}
        self._modules: dict[int, tuple[str, Place]] = {}
        self._cut: str | None = None
        self._seen: set[int] = {id(obj)}
        self._own: set[int] = set()
        self._kept: list[object] = []
        self._tasks = _task_types()

    def forget(self) -> None:
        """Break the way back to the object, should anybody hold on to this search (a traceback)."""
        self._start.obj = None
        self._kept.clear()

    def run(self) -> ReferencePath:
        self._read_modules()
        self._read_frames()
        end, root = self._from_outside() if self._is_huge() else self._outwards()
        if end is None:
            return ReferencePath(steps=(), rooted=False, cut=self._cut)
        steps = _describe(end)
        if root is not None:
            steps.append(root.step)
        return ReferencePath(steps=tuple(steps), rooted=root is not None, cut=self._cut)

    # ---- from the object outwards, through the collector's eyes

    def _outwards(self) -> tuple[_Node | None, _Root | None]:
        """The end of the chain, and the root behind it. One pass over the heap for each step."""
        level = [self._start]
        second_best: tuple[_Node, _Root] | None = None
        dead_end: _Node | None = None
        took = 0.0
        for _ in range(MAX_STEPS):
            found = self._rooted(level)
            if found is not None:
                if found[0].app or found[1].place is not Place.LIBRARY:
                    self._cut = None
                    return found
                second_best = second_best or found
            begun = time.perf_counter()
            if begun + took > self._deadline:
                self._cut = "the search was cut: out of time"
                break
            level, ended = self._next_level(level)
            dead_end = dead_end or ended
            took = time.perf_counter() - begun
            if not level:
                break
        else:
            self._cut = f"the search was cut after {MAX_STEPS} steps"
        if second_best is not None:
            return second_best
        end = level[0] if level else dead_end
        return (end, None) if end is not self._start else (None, None)

    def _rooted(self, level: list[_Node]) -> tuple[_Node, _Root] | None:
        best: tuple[_Node, _Root] | None = None
        for node in level:
            local = self._locals.get(id(node.obj))
            root = self._ends_here(node) or local
            if root is not None and (best is None or (node.app, root.place) > (best[0].app, best[1].place)):
                best = (node, root)
        return best

    def _ends_here(self, node: _Node) -> _Root | None:
        """The root that the object itself is: a module's namespace, a class, a task, a pool."""
        obj, inner = node.obj, node.inner
        if inner is None:
            return None
        cls = type(obj)
        if cls is dict and id(obj) in self._modules:
            module, place = self._modules[id(obj)]
            name = _key_of(obj, inner.obj)
            node.obj, node.inner = inner.obj, inner.inner  # the namespace itself is no step
            words = f"module global `{name}` of {_shown(module)}" if name else f"module {_shown(module)}"
            return _Root(Step(words=words, kind="global", name=name), place)
        if issubclass(cls, self._tasks):
            node.obj, node.inner = inner.obj, inner.inner
            return _Root(Step(words=_task_words(obj), kind="task"), Place.LIBRARY)
        if issubclass(cls, type):
            place = _place_of_class(obj, self._rules)
            name = None
            if type(inner.obj) is dict and inner.inner is not None:  # the class's namespace is no step either
                name = _key_of(inner.obj, inner.inner.obj)
                inner = inner.inner
            node.obj, node.inner = inner.obj, inner.inner
            words = f"class attribute `{name}` of {_type_name(obj)}" if name else f"class {_type_name(obj)}"
            return _Root(Step(words=words, kind="class", name=name), place)
        if node.library and _is_pool(cls):
            node.obj, node.inner = self._start.obj, None
            return _Root(Step(words="the pool's own list", kind="pool"), Place.LIBRARY)
        return None

    def _next_level(self, level: list[_Node]) -> tuple[list[_Node], _Node | None]:
        """Everything that refers to something of `level`, and the first of it to which nothing else refers."""
        following: list[_Node] = []
        dead_end: _Node | None = None
        self._keep(level, following)
        for at in range(0, len(level), _BATCH):
            batch = level[at : at + _BATCH]
            wanted = tuple([node.obj for node in batch])
            found = heap.referrers(wanted)
            self._keep(batch, found, wanted)
            by_id = {id(node.obj): node for node in batch}
            referred: set[int] = set()
            for referrer in found:
                if not self._is_foreign(referrer):
                    continue
                referents = gc.get_referents(referrer)
                node = next((by_id[id(one)] for one in referents if id(one) in by_id), None)
                del referents
                if node is None or id(referrer) in self._seen:
                    continue
                self._seen.add(id(referrer))
                referred.add(id(node.obj))
                following.append(self._node(referrer, node))
            dead_end = dead_end or next((node for node in batch if id(node.obj) not in referred), None)
            if len(following) > _WIDTH:
                del following[_WIDTH:]
                self._cut = "the search was cut: too many objects refer to it"
                break
            if time.perf_counter() > self._deadline:
                self._cut = "the search was cut: out of time"
                break
        return following, dead_end

    def _is_foreign(self, referrer: object) -> bool:
        cls = type(referrer)
        if cls is _Node or cls is _Root or cls is _Search or id(referrer) in self._own:
            return False
        if cls is FrameType:
            return not _is_own_code(referrer.f_code)  # type: ignore[attr-defined]
        if cls is FunctionType:
            return not _is_own_code(referrer.__code__)  # type: ignore[attr-defined]
        return not _is_own_class(cls)

    def _keep(self, *own: object) -> None:
        # Kept until the end: the identity of one that is gone could come back as a foreign object's.
        self._kept += own
        self._own |= {id(one) for one in own}

    def _node(self, obj: object, inner: _Node) -> _Node:
        cls = type(obj)
        code = _code_of(obj, cls)
        place = None
        if code is not None:
            place = self._rules.place(code.co_filename)
        elif not _is_one(cls, _PLAIN) and cls is not TracebackType:
            place = _place_of_class(cls, self._rules)
        app = inner.app or place is Place.APPLICATION
        library = inner.library and (_is_one(cls, _PLAIN) or place is Place.LIBRARY)
        return _Node(obj, inner, app=app, library=library)

    # ---- what the collector does not see

    def _read_modules(self) -> None:
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                namespace = _vars_of_module(module)
                name, file = _string_at(namespace, "__name__"), _string_at(namespace, "__file__")
                if name is None or (name.startswith("leakguard") and not name.startswith("leakguard.demo")):
                    self._own.add(id(namespace))
                    continue
                place = self._rules.place(file) if file is not None else Place.LIBRARY
                if name == "__main__" and file is None:
                    place = Place.APPLICATION
                self._modules[id(namespace)] = (name, place)

    def _read_frames(self) -> None:
        """Every local of every running frame, by identity: application frames before others, inner before outer."""
        names = _thread_names()
        for ident, frame in _stacks():
            self._read_stack(frame, f"running frame {{}} (thread {_shown(names.get(ident, str(ident)))})")
        for ident, error in _handled():
            thread = _shown(names.get(ident, str(ident)))
            words = f"the exception being handled in thread {thread}, {_article(type(error))}"
            self._enter(error, _Root(Step(words=words, kind="traceback"), Place.LIBRARY))
        module = sys.modules.get("greenlet")
        kind = vars(module).get("greenlet") if module is not None else None
        if type(kind) is type:
            for suspended in heap.instances(kind):
                self._read_stack(kind.gr_frame.__get__(suspended), "suspended greenlet's frame {}")  # type: ignore[attr-defined]

    def _read_stack(self, frame: FrameType | None, words: str) -> None:
        while frame is not None:
            code = frame.f_code
            if not _is_own_code(code):
                file, line = code.co_filename, frame.f_lineno or code.co_firstlineno
                place = self._rules.place(file)
                where = words.format(f"{_shown(code.co_name)}() at {_path(file)}:{line}")
                for name, value in _locals_of(frame):
                    known = self._locals.get(id(value))
                    if known is None or known.place < place:
                        step = Step(
                            words=f"local `{name}` of the {where}", kind="local", name=name, file=file, line=line
                        )
                        self._locals[id(value)] = _Root(step, place)
                    del value
            frame = frame.f_back

    def _enter(self, obj: object, root: _Root) -> None:
        self._locals.setdefault(id(obj), root)

    # ---- a huge heap: from the roots inwards, as far as the budget reaches

    def _is_huge(self) -> bool:
        # A rough count first: the exact one makes a list as long as the heap.
        huge = sys.getallocatedblocks() // 4 > 4 * self._max_objects or heap.object_count() > self._max_objects
        if huge:
            self._cut = f"the search was cut: the process has more than {self._max_objects:,} objects"
        return huge

    def _from_outside(self) -> tuple[_Node | None, _Root | None]:
        target = self._start.obj
        direct = self._locals.get(id(target))
        if direct is not None:
            self._cut = None
            return self._start, direct
        todo: deque[_Node] = deque()
        self._keep(todo)
        entries = {id(target)}
        rooted: dict[int, _Root] = {}
        for root_obj, root in self._starting_points():
            if id(root_obj) == id(target):
                self._cut = None
                return self._start, root
            if id(root_obj) not in entries:
                entries.add(id(root_obj))
                rooted[id(root_obj)] = root
                todo.append(_Node(root_obj, None))
            del root_obj
        while todo:
            node = todo.popleft()
            if len(entries) > self._max_objects or time.perf_counter() > self._deadline:
                break
            if not self._is_foreign(node.obj) or type(node.obj) is ModuleType or id(node.obj) in self._modules:
                continue
            for inside in islice(gc.get_referents(node.obj), _INWARDS):
                if inside is target:
                    self._cut = None
                    return self._turned(node, rooted)
                if id(inside) not in entries and gc.is_tracked(inside) and type(inside) is not type:
                    entries.add(id(inside))
                    todo.append(_Node(inside, node))
        return None, None

    def _starting_points(self) -> Iterator[tuple[object, _Root]]:
        """The values of the application's locals and globals, then those of the libraries' frames (event loops)."""
        yield from self._values_of_locals(library=False)
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                namespace = _vars_of_module(module)
                name, place = self._modules.get(id(namespace), ("", Place.LIBRARY))
                for key, value in _items(namespace) if place is not Place.LIBRARY else ():
                    if type(key) is str:
                        words = f"module global `{_shown(key)}` of {_shown(name)}"
                        yield value, _Root(Step(words=words, kind="global", name=key), place)
        yield from self._values_of_locals(library=True)

    def _values_of_locals(self, *, library: bool) -> Iterator[tuple[object, _Root]]:
        for _, innermost in _stacks():
            frame: FrameType | None = innermost
            while frame is not None:
                for _, value in _locals_of(frame) if not _is_own_code(frame.f_code) else ():
                    root = self._locals.get(id(value))
                    if root is not None and (root.place is Place.LIBRARY) is library:
                        yield value, root
                frame = frame.f_back

    def _turned(self, outer: _Node, rooted: dict[int, _Root]) -> tuple[_Node, _Root]:
        """The chain that was found from the root inwards, as one from the object outwards."""
        inner, walk = self._start, outer
        while True:
            if issubclass(type(walk.obj), self._tasks):
                return inner, _Root(Step(words=_task_words(walk.obj), kind="task"), Place.LIBRARY)
            inner = self._node(walk.obj, inner)
            if walk.inner is None:
                return inner, rooted[id(walk.obj)]
            walk = walk.inner


# ---------------------------------------------------------------------------------------------------- into words


def _describe(end: _Node) -> list[Step]:
    """The steps from the object up to `end`, what belongs together folded into one."""
    chain: list[object] = []
    node: _Node | None = end
    while node is not None:
        chain.append(node.obj)
        node = node.inner
    chain.reverse()
    steps: list[Step] = []
    at = 0
    folded = _library_prefix(chain)
    if folded:
        steps.append(_library_step(type(chain[folded])))
        at = folded
    while at < len(chain) - 1:
        step, used = _link(chain, at)
        steps.append(step)
        at += used
    return steps


def _library_prefix(chain: list[object]) -> int:
    """How far from the object the chain runs through nothing but a database library's own objects."""
    found = 0
    for at in range(1, len(chain)):
        cls = type(chain[at])
        code = _code_of(chain[at], cls)
        if code is None and _library_of(cls) is not None:
            found = at
        elif not _is_one(cls, _PLAIN) and (code is None or not _is_library_file(code.co_filename)):
            break
    return found


def _library_step(cls: type) -> Step:
    name = _type_name(cls)
    return Step(words=f"the {name} of {_library_of(cls)}", kind="library", name=name)


def _link(chain: list[object], at: int) -> tuple[Step, int]:
    """The step from `chain[at]` to what refers to it, and how many links it takes."""
    inner, outer = chain[at], chain[at + 1]
    name: str | None
    above = chain[at + 2] if at + 2 < len(chain) else None
    cls = type(outer)
    if (suspendable := _suspendable(cls)) is not None:
        return _suspended_step(inner, outer, *suspendable), 1
    if cls is FrameType:
        return _frame_step(inner, outer), 1
    if cls is TracebackType:
        used = 1
        while at + used + 1 < len(chain) and type(chain[at + used + 1]) is TracebackType:
            used += 1
        error = chain[at + used + 1] if at + used + 1 < len(chain) else None
        if error is not None and issubclass(type(error), BaseException):
            return _error_step(error), used + 1
        return Step(words="a traceback", kind="traceback"), used
    if issubclass(cls, BaseException):
        return _attribute_step(inner, outer), 1
    if cls is CellType:
        if type(above) is tuple and at + 3 < len(chain) and type(chain[at + 3]) is FunctionType:
            function: Any = chain[at + 3]
            name = _free_name(function, outer)
            return Step(
                words=f"closure cell `{name}` of {_shown(function.__code__.co_qualname)}()", kind="closure", name=name
            ), 3
        return Step(words="a closure cell", kind="closure"), 1
    if cls is tuple and type(above) is FunctionType:
        named: Any = above
        return Step(words=f"a default argument of {_shown(named.__code__.co_qualname)}()", kind="closure"), 2
    if cls is FunctionType:
        plain: Any = outer
        return Step(words=f"function {_shown(plain.__code__.co_qualname)}()", kind="closure"), 1
    if cls is MethodType or cls is BuiltinMethodType:
        method: Any = outer
        called = "a bound method"
        if cls is BuiltinMethodType:
            called = f"the bound method {_shown(method.__name__)}()"
        elif type(method.__func__) is FunctionType:
            called = f"the bound method {_shown(method.__func__.__code__.co_name)}()"
        return Step(words=called, kind="attribute"), 1
    if cls is dict and above is not None and _namespace(above) is outer:
        name = _key_of(outer, inner)
        return _attribute(name, above), 2
    if issubclass(cls, dict):
        return Step(words=f"{_key_words(outer, inner)} of {_article(cls)}", kind="item"), 1
    if issubclass(cls, (list, tuple, deque)):
        index = _index_of(outer, inner)
        words = f"item {index} of {_article(cls)}" if index is not None else _article(cls)
        return Step(words=words, kind="item"), 1
    if issubclass(cls, (set, frozenset)):
        return Step(words=f"member of {_article(cls)}", kind="item"), 1
    if issubclass(cls, type):
        return Step(words=f"class {_type_name(outer)}", kind="class"), 1
    if cls is ModuleType:
        return Step(words="a module", kind="global"), 1
    return _attribute_step(inner, outer), 1


def _suspended_step(inner: object, outer: object, noun: str, prefix: str) -> Step:
    suspended: Any = outer
    code: CodeType = getattr(suspended, f"{prefix}_code")  # of a type that cannot be subclassed
    frame: FrameType | None = getattr(suspended, f"{prefix}_frame")
    name, line = None, code.co_firstlineno
    if frame is not None:
        line = frame.f_lineno or line
        name = _local_name(frame, inner)
    verb = "awaited in" if type(inner) in (CoroutineType, AsyncGeneratorType) else "in use in"
    what = f"local `{name}` of" if name is not None else verb
    words = f"{what} suspended {noun} {_shown(code.co_name)}() at {_path(code.co_filename)}:{line}"
    return Step(words=words, kind="local", name=name, file=code.co_filename, line=line)


def _frame_step(inner: object, outer: object) -> Step:
    frame: Any = outer
    code: CodeType = frame.f_code
    if type(inner) is FrameType:
        return Step(words="a frame that it was called from", kind="other")
    name, line = _local_name(frame, inner), frame.f_lineno or code.co_firstlineno
    what = f"local `{name}` of" if name is not None else "in use in"
    words = f"{what} the ended frame {_shown(code.co_name)}() at {_path(code.co_filename)}:{line}"
    return Step(words=words, kind="local", name=name, file=code.co_filename, line=line)


def _error_step(error: object) -> Step:
    """``traceback of a stored ValueError (raised at y.py:7)``: its innermost frame is where it was raised."""
    name = _type_name(type(error))
    traceback: TracebackType | None = _traceback_of(error)
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return Step(words=f"traceback of a stored {name}", kind="traceback", name=name)
    file, line = traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
    words = f"traceback of a stored {name} (raised at {_path(file)}:{line})"
    return Step(words=words, kind="traceback", name=name, file=file, line=line)


def _attribute_step(inner: object, outer: object) -> Step:
    """An instance without a namespace of its own in the chain: slots, or values that are stored in line."""
    namespace = _namespace(outer)
    name = _key_of(namespace, inner) if namespace is not None else None
    if name is None:
        name = _slot_of(outer, inner)
    return _attribute(name, outer)


def _attribute(name: str | None, outer: object) -> Step:
    words = f"attribute `{name}` of {_article(type(outer))}" if name is not None else _article(type(outer))
    return Step(words=words, kind="attribute", name=name)


def _key_words(outer: object, inner: object) -> str:
    for key, value in _items(outer):
        if value is inner:
            return f"key '{key}'" if type(key) is str and _is_harmless(key) else f"a {_type_name(type(key))} key"
        if key is inner:
            return "a key"
    return "an entry"


def _is_harmless(key: str) -> bool:
    """A key that reads like a name in a program. Others may be values: an address, a token, a customer's number."""
    letters = key.rstrip("0123456789")
    return len(key) <= 40 and len(key) - len(letters) <= 3 and key.isidentifier() and not any(map(str.isdigit, letters))


def _task_words(task: object) -> str:
    module = sys.modules.get("_asyncio")
    kind = vars(module).get("Task") if module is not None else None
    if type(kind) is type and issubclass(type(task), kind):
        name = kind.get_name(task)  # type: ignore[attr-defined]
        if type(name) is str:
            return f"task {_shown(name)}"
    return "a task"


def _article(cls: type) -> str:
    name = _type_name(cls)
    return f"an {name}" if name[:1].lower() in "aeiou" and name[:1] else f"a {name}"


def _shown(text: str) -> str:
    return redact.visible(str.__str__(text), 100)


def _path(file: str) -> str:
    try:
        root = os.getcwd()  # noqa: PTH109
    except OSError:
        return _shown(file)
    return _shown(file.removeprefix(root + os.sep) if root != os.sep else file)


# -------------------------------------------------------------------------------- looking without asking anybody


def _type_name(cls: object) -> str:
    return _shown(_name_of(cls))


def _library_of(cls: type) -> str | None:
    """The database library whose class this is."""
    module = _module_name(cls)
    package = module.partition(".")[0] if module is not None else ""
    return package if package in _LIBRARIES else None


def _module_name(cls: type) -> str | None:
    module = _module_of(cls)
    return module if type(module) is str else None


def _is_pool(cls: type) -> bool:
    return _library_of(cls) is not None and _type_name(cls).endswith("Pool")


def _place_of_class(cls: object, rules: FrameRules) -> Place:
    """Whose class it is, by the file of its module."""
    module = _module_name(cls)  # type: ignore[arg-type]
    if module is None or module == "builtins" or _library_of(cls) is not None:  # type: ignore[arg-type]
        return Place.LIBRARY
    if module.partition(".")[0] in sys.stdlib_module_names:
        return Place.LIBRARY
    found = sys.modules.get(module)
    if found is None or not issubclass(type(found), ModuleType):
        return Place.APPLICATION if module == "__main__" else Place.LIBRARY
    file = _string_at(_vars_of_module(found), "__file__")
    if file is None:
        return Place.APPLICATION if module == "__main__" else Place.LIBRARY
    return rules.place(file)


def _is_own_class(cls: type) -> bool:
    module = _module_name(cls)
    return module is not None and module.startswith("leakguard.") and not module.startswith("leakguard.demo.")


def _is_own_code(code: CodeType) -> bool:
    return code.co_filename.startswith(_OWN) and not code.co_filename.startswith(_OWN_DEMO)


def _is_library_file(file: str) -> bool:
    return any(f"{os.sep}{library}{os.sep}" in file for library in _LIBRARIES)


def _code_of(obj: object, cls: type) -> CodeType | None:
    """The code that a frame, generator or function runs. The types are exact, so nobody overrides the attributes."""
    known: Any = obj
    if cls is FrameType:
        return known.f_code  # type: ignore[no-any-return]
    if cls is FunctionType:
        return known.__code__  # type: ignore[no-any-return]
    suspendable = _suspendable(cls)
    return getattr(known, f"{suspendable[1]}_code") if suspendable is not None else None


def _suspendable(cls: type) -> tuple[str, str] | None:
    """What a suspended thing of exactly this type is called, and the prefix of its attributes."""
    return next(((noun, prefix) for kind, noun, prefix in _SUSPENDABLE if cls is kind), None)


def _is_one(cls: type, kinds: tuple[object, ...]) -> bool:
    """Like ``cls in kinds``, which could call the ``__eq__`` of a foreign metaclass."""
    return any(cls is kind for kind in kinds)


def _locals_of(frame: FrameType) -> list[tuple[str, object]]:
    """The local variables of a function's frame; those of modules and classes are found as the namespaces they are."""
    code = frame.f_code
    if not code.co_flags & 0x1:  # CO_OPTIMIZED: a function
        return []
    names: Any = frame.f_locals
    found: list[tuple[str, object]] = []
    own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
    if type(names) is not dict:  # Python 3.13: a window onto the frame
        for name in names:
            try:
                found.append((name, names[name]))
            except KeyError:  # unbound meanwhile
                continue
        return [item for item in found if item[0] in own]
    found = [(name, value) for name, value in list(names.items()) if type(name) is str and name in own]
    # Before 3.13 this was a copy, which the frame keeps, and with it every value that it had at this moment. Unless
    # the application has called locals() and holds that copy too, nobody misses it.
    if sys.getrefcount(names) <= 3:
        for name, _ in found:
            names.pop(name, None)
    return found


def _local_name(frame: FrameType, value: object) -> str | None:
    return next((name for name, found in _locals_of(frame) if found is value), None)


def _namespace(obj: object) -> dict[Any, object] | None:
    """The ``__dict__`` of an instance, whatever its class makes of that name."""
    cls = type(obj)
    if issubclass(cls, (type, ModuleType)):
        return None
    for base in _mro_of(cls):
        descriptor = _dict_of(base).get("__dict__")
        if type(descriptor) is GetSetDescriptorType:
            try:
                found = descriptor.__get__(obj)
            except (AttributeError, TypeError):
                return None
            return found if type(found) is dict else None
    return None


def _slot_of(outer: object, inner: object) -> str | None:
    """The slot (or the member of a type written in C) in which `outer` has `inner`."""
    for base in _mro_of(type(outer)):
        for name, descriptor in list(_dict_of(base).items()):
            if type(descriptor) is not MemberDescriptorType or type(name) is not str:
                continue
            try:
                if descriptor.__get__(outer) is inner:
                    return _shown(name)
            except (AttributeError, TypeError):
                continue
    return None


def _key_of(namespace: object, value: object) -> str | None:
    """The name under which a namespace has `value`. Looks at every entry: a look-up could ask a foreign key."""
    for key, found in _items(namespace):
        if found is value and type(key) is str:
            return _shown(key)
    return None


def _items(mapping: object) -> list[tuple[object, object]]:
    """The entries of a dict or a subclass, past its own methods, in one go: another thread may change it."""
    return list(dict.items(cast("dict[object, object]", mapping)))


def _string_at(namespace: dict[Any, object], name: str) -> str | None:
    for key, value in _items(namespace):
        if type(key) is str and key == name:
            return value if type(value) is str else None
    return None


def _index_of(outer: object, inner: object) -> int | None:
    cls: Any = next(kind for kind in (list, tuple, deque) if issubclass(type(outer), kind))
    items = cls.__iter__(outer)
    try:
        return next((at for at, item in enumerate(items) if item is inner), None)
    except RuntimeError:  # a deque that changed meanwhile
        return None


def _free_name(function: Any, cell: object) -> str:
    closure = function.__closure__ or ()
    return next((name for name, own in zip(function.__code__.co_freevars, closure, strict=False) if own is cell), "?")


def _task_types() -> tuple[type, ...]:
    found = []
    for module_name in ("_asyncio", "asyncio.tasks"):
        module = sys.modules.get(module_name)
        for name in ("Task", "_PyTask"):
            kind = vars(module).get(name) if module is not None else None
            if type(kind) is type:
                found.append(kind)
    return tuple(found)


def _stacks() -> list[tuple[int, FrameType]]:
    """The innermost frame of each thread, leakguard's own left out: a frame that has itself as a local never dies."""
    found: list[tuple[int, FrameType]] = []
    for ident, innermost in sys._current_frames().items():
        frame: FrameType | None = innermost
        del innermost
        while frame is not None and _is_own_code(frame.f_code):
            frame = frame.f_back
        if frame is not None and not _is_traced(frame):
            found.append((ident, frame))
    return found


def _is_traced(frame: FrameType | None) -> bool:
    """Whether a debugger written in Python has stopped this thread. Before Python 3.13, it writes its own copy of the
    locals back when it goes on: what a look at them changes in that copy would be changed in the program."""
    if sys.version_info >= (3, 13):
        return False
    while frame is not None:
        if frame.f_trace is not None and _name_of(type(frame.f_trace)) != "CTracer":  # coverage's, which does not
            return True
        frame = frame.f_back
    return False


def _thread_names() -> dict[int, str]:
    import threading

    names: dict[int, str] = {}
    for ident, thread in list(threading._active.items()):  # type: ignore[attr-defined]
        name = _string_at(_namespace(thread) or {}, "_name")
        if name is not None:
            names[ident] = name
    return names


def _handled() -> list[tuple[int, BaseException]]:
    """The exception that each thread is handling right now."""
    found: list[tuple[int, BaseException]] = []
    for ident, entry in sys._current_exceptions().items():
        error: Any = entry[1] if type(entry) is tuple else entry  # a triple before Python 3.12
        if error is not None:
            found.append((ident, error))
    return found
