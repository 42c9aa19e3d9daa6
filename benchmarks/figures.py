"""What a part of the benchmark gives: lines to print, figures to keep, and goals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure beside what it should be."""

    what: str
    figure: float
    limit: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of the limit."""
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit

    @property
    def shown(self) -> tuple[str, str, str]:
        """The figure, its limit and the verdict, for a reader."""
        sign = ">=" if self.at_least else "<="
        return f"{self.figure:.3f}{self.unit}", f"{sign} {self.limit:g}{self.unit}", "met" if self.met else "missed"


class Result(Protocol):
    """What one part has measured."""

    def lines(self) -> Iterator[str]:
        """The tables."""

    def figures(self) -> dict[str, object]:
        """Everything, for a file: seconds and bytes unless the key says otherwise."""

    def goals(self) -> Iterator[Goal]:
        """The goals of the project that this part can judge."""


def times_less(other: float, ours: float) -> float:
    """How many times less we add than another: at most 999, also where nothing could be measured."""
    return min(999.0, other / ours) if ours > 0 else 999.0
