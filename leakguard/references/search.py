"""The search: over the heap from the object outwards, or from what runs inwards where the heap is too large."""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
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
from leakguard.references.roots import Root, Roots
from leakguard.references.running import task_types
from leakguard.references.steps import describe, task_words
from leakguard.references.values import key_of, shown
from leakguard.register.stacks import FrameRules, Place

_MAX_STEPS: Final = 40
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


class Search:
    """One search, of one thread. Nothing of it may outlive it: whoever has made it calls `forget()`."""

    def __init__(self, obj: object, deadline: float, max_objects: int) -> None:
        self._deadline = deadline
        self._max_objects = max_objects
        self._start = _Node(obj, None)
        self._rules = FrameRules()
        self._roots = Roots(self._rules)
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
        self._roots.read()
        self._own |= self._roots.own
        end, root = self._from_outside() if self._is_huge() else self._outwards()
        if end is None:
            return ReferencePath(steps=(), rooted=False, cut=self._cut)
        steps = describe(end.chain())
        if root is not None:
            steps.append(root.step)
        return ReferencePath(steps=tuple(steps), rooted=root is not None, cut=self._cut)

    # ---- from the object outwards, through the collector's eyes

    def _outwards(self) -> tuple[_Node | None, Root | None]:
        """The end of the chain, and the root behind it. One pass over the heap for each step."""
        level = [self._start]
        second_best: tuple[_Node, Root] | None = None
        dead_end: _Node | None = None
        took = 0.0
        for _ in range(_MAX_STEPS):
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
            self._cut = f"the search was cut after {_MAX_STEPS} steps"
        if second_best is not None:
            return second_best
        end = level[0] if level else dead_end
        return (end, None) if end is not self._start else (None, None)

    def _rooted(self, level: list[_Node]) -> tuple[_Node, Root] | None:
        best: tuple[_Node, Root] | None = None
        for node in level:
            local = self._roots.locals.get(id(node.obj))
            root = self._ends_here(node) or local
            if root is not None and (best is None or (node.app, root.place) > (best[0].app, best[1].place)):
                best = (node, root)
        return best

    def _ends_here(self, node: _Node) -> Root | None:
        """The root that the object itself is: a module's namespace, a class, a task, a pool."""
        obj, inner = node.obj, node.inner
        if inner is None:
            return None
        cls = type(obj)
        if cls is dict and id(obj) in self._roots.modules:
            module, place = self._roots.modules[id(obj)]
            name = key_of(obj, inner.obj)
            node.obj, node.inner = inner.obj, inner.inner  # the namespace itself is no step
            words = f"module global `{name}` of {shown(module)}" if name else f"module {shown(module)}"
            return Root(Step(words=words, kind="global", name=name), place)
        if issubclass(cls, self._tasks):
            node.obj, node.inner = inner.obj, inner.inner
            return Root(Step(words=task_words(obj), kind="task"), Place.LIBRARY)
        if issubclass(cls, type):
            place = place_of_class(obj, self._rules)
            name = None
            if type(inner.obj) is dict and inner.inner is not None:  # the class's namespace is no step either
                name = key_of(inner.obj, inner.inner.obj)
                inner = inner.inner
            node.obj, node.inner = inner.obj, inner.inner
            words = f"class attribute `{name}` of {type_name(obj)}" if name else f"class {type_name(obj)}"
            return Root(Step(words=words, kind="class", name=name), place)
        if node.library and is_pool(cls):
            node.obj, node.inner = self._start.obj, None
            return Root(Step(words="the pool's own list", kind="pool"), Place.LIBRARY)
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
        if cls is _Node or cls is Root or cls is Roots or cls is Search or id(referrer) in self._own:
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

    # ---- a huge heap: from the roots inwards, as far as the budget reaches

    def _is_huge(self) -> bool:
        # A rough count first: the exact one makes a list as long as the heap.
        huge = sys.getallocatedblocks() // 4 > 4 * self._max_objects or heap.object_count() > self._max_objects
        if huge:
            self._cut = f"the search was cut: the process has more than {self._max_objects:,} objects"
        return huge

    def _from_outside(self) -> tuple[_Node | None, Root | None]:
        target = self._start.obj
        direct = self._roots.locals.get(id(target))
        if direct is not None:
            self._cut = None
            return self._start, direct
        todo: deque[_Node] = deque()
        self._keep(todo)
        entries = {id(target)}
        rooted: dict[int, Root] = {}
        for root_obj, root in self._roots.starting_points():
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
            if not self._is_foreign(node.obj) or type(node.obj) is ModuleType or id(node.obj) in self._roots.modules:
                continue
            for inside in islice(gc.get_referents(node.obj), _INWARDS):
                if inside is target:
                    self._cut = None
                    return self._turned(node, rooted)
                if id(inside) not in entries and gc.is_tracked(inside) and type(inside) is not type:
                    entries.add(id(inside))
                    todo.append(_Node(inside, node))
        return None, None

    def _turned(self, outer: _Node, rooted: dict[int, Root]) -> tuple[_Node, Root]:
        """The chain that was found from the root inwards, as one from the object outwards."""
        inner, walk = self._start, outer
        while True:
            if issubclass(type(walk.obj), self._tasks):
                return inner, Root(Step(words=task_words(walk.obj), kind="task"), Place.LIBRARY)
            inner = self._node(walk.obj, inner)
            if walk.inner is None:
                return inner, rooted[id(walk.obj)]
            walk = walk.inner
