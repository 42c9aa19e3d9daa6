"""Where a chain may end: the locals of what runs, which the collector does not see, and the globals of the modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType, ModuleType

from leakguard.process import heap
from leakguard.references.kinds import is_own_code, is_own_module
from leakguard.references.path import Step
from leakguard.references.running import handled_errors, running_stacks, thread_names
from leakguard.references.steps import shown_path, with_article
from leakguard.references.values import items_of, locals_of, shown, string_at, vars_of_module
from leakguard.register.stacks import FrameRules, Place


class Root:
    """Where a chain may end: the step that says it, and whose it is."""

    __slots__ = ("place", "step")

    def __init__(self, step: Step, place: Place) -> None:
        self.step = step
        self.place = place


class Roots:
    """The roots of one search, by the identity of what they hold: nothing stays alive through them."""

    def __init__(self, rules: FrameRules) -> None:
        self._rules = rules
        self.locals: dict[int, Root] = {}
        self.modules: dict[int, tuple[str, Place]] = {}  # by the identity of the namespace
        self.own: set[int] = set()  # the namespaces of leakguard's modules

    def read(self) -> None:
        """Look at the modules and at what runs right now."""
        self._read_modules()
        self._read_frames()

    def _read_modules(self) -> None:
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                namespace = vars_of_module(module)
                name, file = string_at(namespace, "__name__"), string_at(namespace, "__file__")
                if name is None or is_own_module(name):
                    self.own.add(id(namespace))
                    continue
                place = self._rules.place(file) if file is not None else Place.LIBRARY
                if name == "__main__" and file is None:
                    place = Place.APPLICATION
                self.modules[id(namespace)] = (name, place)

    def _read_frames(self) -> None:
        """Every local of every running frame, by identity: application frames before others, inner before outer."""
        names = thread_names()
        for ident, frame in running_stacks():
            self._read_stack(frame, f"running frame {{}} (thread {shown(names.get(ident, str(ident)))})")
        for ident, error in handled_errors():
            thread = shown(names.get(ident, str(ident)))
            words = f"the exception being handled in thread {thread}, {with_article(type(error))}"
            self._enter(error, Root(Step(words=words, kind="traceback"), Place.LIBRARY))
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
                    known = self.locals.get(id(value))
                    if known is None or known.place < place:
                        step = Step(
                            words=f"local `{name}` of the {where}", kind="local", name=name, file=file, line=line
                        )
                        self.locals[id(value)] = Root(step, place)
                    del value
            frame = frame.f_back

    def _enter(self, obj: object, root: Root) -> None:
        self.locals.setdefault(id(obj), root)

    def starting_points(self) -> Iterator[tuple[object, Root]]:
        """The values of the application's locals and globals, then those of the libraries' frames (event loops)."""
        yield from self._values_of_locals(library=False)
        for module in list(sys.modules.values()):
            if issubclass(type(module), ModuleType):
                namespace = vars_of_module(module)
                name, place = self.modules.get(id(namespace), ("", Place.LIBRARY))
                for key, value in items_of(namespace) if place is not Place.LIBRARY else ():
                    if type(key) is str:
                        words = f"module global `{shown(key)}` of {shown(name)}"
                        yield value, Root(Step(words=words, kind="global", name=key), place)
        yield from self._values_of_locals(library=True)

    def _values_of_locals(self, *, library: bool) -> Iterator[tuple[object, Root]]:
        for _, innermost in running_stacks():
            frame: FrameType | None = innermost
            while frame is not None:
                for _, value in locals_of(frame) if not is_own_code(frame.f_code) else ():
                    root = self.locals.get(id(value))
                    if root is not None and (root.place is Place.LIBRARY) is library:
                        yield value, root
                frame = frame.f_back
