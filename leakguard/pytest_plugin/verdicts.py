"""Whether what was found fails the run: mode, markers, and what became of the test itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from leakguard.model import Leak
from leakguard.pytest_plugin.findings import Entry, Status
from leakguard.pytest_plugin.marks import UNLIMITED, Mode, Policy
from leakguard.pytest_plugin.places import Place


class Verdicts:
    """Turns findings into entries of the report."""

    def __init__(self, mode: Mode, kept_by: Callable[[Leak], str | None]) -> None:
        self.mode = mode
        self._kept_by = kept_by
        self._policies: dict[Place, Policy] = {}
        self._failed: set[Place] = set()

    def remember(self, place: Place, policy: Policy, *, failed: bool) -> None:
        """The place has ended. Only one that left something open needs to be remembered."""
        self._policies[place] = policy
        if failed:
            self._failed.add(place)

    def entries(self, found: Iterable[tuple[Place, Leak]], *, of_test: Place | None = None) -> list[Entry]:
        """One entry a place. `of_test` is the test whose report these entries go to: it can fail by itself."""
        by_place: dict[Place, list[Leak]] = {}
        for place, leak in found:
            if leak.certain:  # a suspicion is about time, and a test's time says nothing about production's
                by_place.setdefault(place, []).append(leak)
        entries = []
        for place, leaks in by_place.items():
            policy = self._policies.get(place, Policy(self.mode))
            if policy.mode != "off":
                status, why = self._judge(place, policy, leaks)
                counted = place is of_test and status == "leaked"
                entries.append(
                    Entry(
                        title=place.title,
                        test=place.test,
                        status=status,
                        why=why,
                        counted=counted,
                        leaks=tuple(leaks),
                        kept={str(leak.hold.id): kept for leak in leaks if leak.hold and (kept := self._kept_by(leak))},
                    )
                )
        return entries

    def _judge(self, place: Place, policy: Policy, leaks: Sequence[Leak]) -> tuple[Status, str]:
        because = f": {policy.reason}" if policy.reason else ""
        if len(leaks) <= policy.allowed:
            how = "any number is" if policy.allowed >= UNLIMITED else f"{policy.allowed} are"
            return "allowed", f"{how} allowed by its marker{because}"
        if place in self._failed:
            return "warning", "the test failed anyway, and its traceback keeps objects alive"
        if policy.mode == "warn":
            return "warning", "the mode is warn"
        return "leaked", f"its marker allows {policy.allowed}{because}" if policy.allowed else ""
