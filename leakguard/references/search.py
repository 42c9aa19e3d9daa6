"""The search: over the heap from the object outwards, or from what runs inwards where the heap is too large."""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import FrameType, FunctionType, ModuleType, TracebackType
from typing import Final

from leakguard.process import heap
from leakguard.references.kinds import (
    PLAIN,
    code_of,
    is_one,
    is_own_class,
    is_own_code,
    is_pool,
    place_of_class,
    type_name,
)
from leakguard.references.path import ReferencePath, Step
from leakguard.references.running import handled_errors, running_stacks, task_types, thread_names
from leakguard.references.steps import describe, shown_path, task_words, with_article
from leakguard.references.values import items_of, key_of, locals_of, shown, string_at, vars_of_module
from leakguard.register.stacks import FrameRules, Place

MAX_STEPS: Final = 40
"""The longest chain that is followed."""
_WIDTH: Final = 2_000
"""The most objects that are followed at one distance; what is referred to from more places is cut."""
_BATCH: Final = 50
"""How many objects one pass over the heap looks for: its cost grows with their number."""
_INWARDS: Final = 1_000
"""How many of a container's contents are looked into where the search goes inwards."""


class _Node:
    """An object on the way, and the one that it refers to, one step nearer to the object in question."""

    __slots__ = ("app", "inner", "library", "obj")

    def __init__(self, obj: object, inner: _Node | None, *, app: bool = False, library: bool = True) -> None:
        self.obj = obj
        self.inner = inner
        self.app = app  # whether something of the application's is on the way to here
        self.library = library  # whether there is nothing but a library's on the way to here

    def chain(self) -> list[object]:
        """The objects from the one in question up to this one."""
        found: list[object] = []
        node: _Node | None = self
        while node is not None:
            found.append(node.obj)
            node = node.inner
        found.reverse()
        return found


class _Root:
    """Where a chain may end: the step that says it, and whose it is."""

    __slots__ = ("place", "step")

    def __init__(self, step: Step, place: Place) -> None:
        self.step = step
        self.place = place


class Search:
    """One search, of one thread. Nothing of it may outlive it: whoever has made it calls `forget()`."""

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
        self._tasks = task_types()

    def forget(self) -> None:
        """Break the way back to the object, should anybody hold on to this search (a traceback)."""
        self._start.obj = None
        self._kept.clear()

    def run(self) -> ReferencePath:
        """Search, within the limits."""
        self._read_modules()
        self._read_frames()
        end, root = self._from_outside() if self._is_huge() else self._outwards()
        if end is None:
            return ReferencePath(steps=(), rooted=False, cut=self._cut)
        steps = describe(end.chain())
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
            name = key_of(obj, inner.obj)
            node.obj, node.inner = inner.obj, inner.inner  # the namespace itself is no step
            words = f"module global `{name}` of {shown(module)}" if name else f"module {shown(module)}"
            return _Root(Step(words=words, kind="global", name=name), place)
        if issubclass(cls, self._tasks):
            node.obj, node.inner = inner.obj, inner.inner
            return _Root(Step(words=task_words(obj), kind="task"), Place.LIBRARY)
        if issubclass(cls, type):
            place = place_of_class(obj, self._rules)
            name = None
            if type(inner.obj) is dict and inner.inner is not None:  # the class's namespace is no step either
                name = key_of(inner.obj, inner.inner.obj)
                inner = inner.inner
            node.obj, node.inner = inner.obj, inner.inner
            words = f"class attribute `{name}` of {type_name(obj)}" if name else f"class {type_name(obj)}"
            return _Root(Step(words=words, kind="class", name=name), place)
        if node.library and is_pool(cls):
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
        if cls is _Node or cls is _Root or cls is Search or id(referrer) in self._own:
            return False
        if cls is FrameType:
            return not is_own_code(referrer.f_code)  # type: ignore[attr-defined]
        if cls is FunctionType:
            return not is_own_code(referrer.__code__)  # type: ignore[attr-defined]
        return not is_own_class(cls)

    def _keep(self, *own: object) -> None:
        # Kept until the end: the identity of one that is gone could come back as a foreign object's.
        self._kept += own
        self._own |= {id(one) for one in own}

    def _node(self, obj: object, inner: _Node) -> _Node:
        cls = type(obj)
        code = code_of(obj, cls)
        place = None
        if code is not None:
            place = self._rules.place(code.co_filename)
        elif not is_one(cls, PLAIN) and cls is not TracebackType:
            place = place_of_class(cls, self._rules)
        app = inner.app or place is Place.APPLICATION
        library = inner.library and (is_one(cls, PLAIN) or place is Place.LIBRARY)
        return _Node(obj, inner, app=app, library=library)

    # ---- what the collector does not see

    def _read_modules(self) -> None:
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                namespace = vars_of_module(module)
                name, file = string_at(namespace, "__name__"), string_at(namespace, "__file__")
                if name is None or (name.startswith("leakguard") and not name.startswith("leakguard.demo")):
                    self._own.add(id(namespace))
                    continue
                place = self._rules.place(file) if file is not None else Place.LIBRARY
                if name == "__main__" and file is None:
                    place = Place.APPLICATION
                self._modules[id(namespace)] = (name, place)

    def _read_frames(self) -> None:
        """Every local of every running frame, by identity: application frames before others, inner before outer."""
        names = thread_names()
        for ident, frame in running_stacks():
            self._read_stack(frame, f"running frame {{}} (thread {shown(names.get(ident, str(ident)))})")
        for ident, error in handled_errors():
            thread = shown(names.get(ident, str(ident)))
            words = f"the exception being handled in thread {thread}, {with_article(type(error))}"
            self._enter(error, _Root(Step(words=words, kind="traceback"), Place.LIBRARY))
        module = sys.modules.get("greenlet")
        kind = vars(module).get("greenlet") if module is not None else None
        if type(kind) is type:
            for suspended in heap.instances(kind):
                self._read_stack(kind.gr_frame.__get__(suspended), "suspended greenlet's frame {}")  # type: ignore[attr-defined]

    def _read_stack(self, frame: FrameType | None, words: str) -> None:
        while frame is not None:
            code = frame.f_code
            if not is_own_code(code):
                file, line = code.co_filename, frame.f_lineno or code.co_firstlineno
                place = self._rules.place(file)
                where = words.format(f"{shown(code.co_name)}() at {shown_path(file)}:{line}")
                for name, value in locals_of(frame):
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
                namespace = vars_of_module(module)
                name, place = self._modules.get(id(namespace), ("", Place.LIBRARY))
                for key, value in items_of(namespace) if place is not Place.LIBRARY else ():
                    if type(key) is str:
                        words = f"module global `{shown(key)}` of {shown(name)}"
                        yield value, _Root(Step(words=words, kind="global", name=key), place)
        yield from self._values_of_locals(library=True)

    def _values_of_locals(self, *, library: bool) -> Iterator[tuple[object, _Root]]:
        for _, innermost in running_stacks():
            frame: FrameType | None = innermost
            while frame is not None:
                for _, value in locals_of(frame) if not is_own_code(frame.f_code) else ():
                    root = self._locals.get(id(value))
                    if root is not None and (root.place is Place.LIBRARY) is library:
                        yield value, root
                frame = frame.f_back

    def _turned(self, outer: _Node, rooted: dict[int, _Root]) -> tuple[_Node, _Root]:
        """The chain that was found from the root inwards, as one from the object outwards."""
        inner, walk = self._start, outer
        while True:
            if issubclass(type(walk.obj), self._tasks):
                return inner, _Root(Step(words=task_words(walk.obj), kind="task"), Place.LIBRARY)
            inner = self._node(walk.obj, inner)
            if walk.inner is None:
                return inner, rooted[id(walk.obj)]
            walk = walk.inner
