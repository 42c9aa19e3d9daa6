"""Whether what was found fails the run: mode, markers, and what became of the test itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from leakguard.model import Leak
from leakguard.pytest_plugin.findings import Entry, Status
from leakguard.pytest_plugin.known import Budget
from leakguard.pytest_plugin.marks import UNLIMITED, Mode, Policy
from leakguard.pytest_plugin.places import Place

Verdict: TypeAlias = "tuple[Status, str, Status | None, Sequence[Leak]]"
"""Status, why, the status without a baseline where one matters, and the leaks of which it is said."""


class Verdicts:
    """Turns findings into entries of the report."""

    def __init__(self, mode: Mode, kept_by: Callable[[Leak], str | None], budget: Budget | None = None) -> None:
        self.mode = mode
        self._budget = budget
        self._kept_by = kept_by
        self._policies: dict[Place, Policy] = {}
        self._failed: set[Place] = set()

    def remember(self, place: Place, policy: Policy, *, failed: bool) -> None:
        """The place has ended. Only one that left something open needs to be remembered."""
        self._policies[place] = policy
        if failed:
            self._failed.add(place)

    def entries(self, found: Iterable[tuple[Place, Leak]], *, of_test: Place | None = None) -> list[Entry]:
        """One entry a place, and one more for what is known of it. `of_test` is the test whose report these entries go
        to: it can fail by itself."""
        by_place: dict[Place, list[Leak]] = {}
        for place, leak in found:
            if leak.certain:  # a suspicion is about time, and a test's time says nothing about production's
                by_place.setdefault(place, []).append(leak)
        entries = []
        for place, leaks in by_place.items():
            policy = self._policies.get(place, Policy(self.mode))
            if policy.mode == "off":
                continue
            for status, why, otherwise, part in self._judge(place, policy, leaks):
                entries.append(
                    Entry(
                        title=place.title,
                        test=place.test,
                        status=status,
                        why=why,
                        counted=place is of_test and status == "leaked",
                        leaks=tuple(part),
                        kept={str(leak.hold.id): kept for leak in part if leak.hold and (kept := self._kept_by(leak))},
                        key=place.key,
                        otherwise=otherwise,
                    )
                )
        return entries

    def _judge(self, place: Place, policy: Policy, leaks: Sequence[Leak]) -> Iterator[Verdict]:
        because = f": {policy.reason}" if policy.reason else ""
        how = "any number is" if policy.allowed >= UNLIMITED else f"{policy.allowed} are"
        allowed = f"{how} allowed by its marker{because}"
        if len(leaks) <= policy.allowed:
            yield "allowed", allowed, None, leaks
            return
        if place in self._failed:
            yield "warning", "the test failed anyway, and its traceback keeps objects alive", None, leaks
            return
        otherwise: Status = "warning" if policy.mode == "warn" else "leaked"
        more = ""
        if self._budget is not None:
            known, leaks, more = self._budget.split(leaks, place.key)
            if known:
                yield "known", "the baseline knows it", otherwise, known
        if not leaks:
            return
        if len(leaks) <= policy.allowed:
            yield "allowed", allowed, None, leaks
        elif otherwise == "warning":
            yield "warning", "the mode is warn", otherwise, leaks
        else:
            marker = f"its marker allows {policy.allowed}{because}" if policy.allowed else ""
            yield "leaked", more or marker, otherwise, leaks
