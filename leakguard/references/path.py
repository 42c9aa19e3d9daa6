"""What a search comes to: the chain of what refers to an object, step by step, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

StepKind = Literal[
    "local", "global", "class", "attribute", "item", "closure", "traceback", "task", "library", "pool", "other"
]


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
