"""What the running context says about the holds acquired in it: labels, the test, a longer limit, boundaries.

All of it is one immutable object in one context variable, so the hot path pays for a single look-up, and asyncio tasks
and ``contextvars.copy_context()`` carry it along by themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class LongHold:
    """A limit of its own, in seconds, for the holds of this context, and why they may last."""

    reason: str
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The context of an acquire. `boundaries` are the ids of the ``no_leaks(scope="context")`` blocks around it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    test: str | None = None
    long: LongHold | None = None
    boundaries: frozenset[int] = frozenset()


NO_SCOPE: Final = Scope()
current_scope: Final[ContextVar[Scope]] = ContextVar("leakguard_scope", default=NO_SCOPE)


@contextmanager
def entered(
    *,
    labels: Mapping[str, str] | None = None,
    test: str | None = None,
    long: LongHold | None = None,
    boundary: int | None = None,
) -> Iterator[None]:
    """Add to the current scope for the length of a ``with`` block; what is not given stays as it is."""
    outer = current_scope.get()
    inner = replace(
        outer,
        labels={**outer.labels, **labels} if labels else outer.labels,
        test=test or outer.test,
        long=long or outer.long,
        boundaries=outer.boundaries if boundary is None else outer.boundaries | {boundary},
    )
    token = current_scope.set(inner)
    try:
        yield
    finally:
        current_scope.reset(token)
