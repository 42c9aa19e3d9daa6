"""Planted against found: the table at the end of the demo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leakguard.demo.bugs import PLANTED, Planted
from leakguard.demo.lookalikes import LOOK_ALIKES
from leakguard.model import Leak, Recovered, Site
from leakguard.prose import phrases


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of everything planted. `leaks` are all findings, one for each leak; `recoveries` what came back."""

    leaks: Sequence[Leak]
    recoveries: Sequence[Recovered]

    @property
    def flawless(self) -> bool:
        """Whether every planted leak was found as often as it happened, and nothing else."""
        return all(map(self.found, PLANTED)) and not self.false_alarms()

    def found(self, bug: Planted) -> bool:
        """Whether `bug` was found, as what it is and as often as it happened."""
        count = Counter((_function(leak.site), leak.kind) for leak in self.leaks)[bug.function, bug.kind]
        came_back = any(_function(event.hold.site) == bug.function for event in self.recoveries)
        return count == bug.count and came_back == bug.recovers

    def false_alarms(self) -> list[Leak]:
        """The findings that nobody planted."""
        expected = {(bug.function, kind) for bug in PLANTED for kind in (bug.kind, *bug.also)}
        return [leak for leak in self.leaks if (_function(leak.site), leak.kind) not in expected]

    def lines(self) -> Iterator[str]:
        """The table, one line each, and the score."""
        places = {(_function(leak.site), leak.kind): phrases.place(leak.site) for leak in self.leaks}
        for bug in PLANTED:
            kind = bug.kind + (f" x{bug.count}" if bug.count > 1 else "") + (", recovered" if bug.recovers else "")
            word = "found" if self.found(bug) else "MISSED"
            yield _row(word, kind, bug.title, places.get((bug.function, bug.kind), f"{bug.function}()"))
        alarms = self.false_alarms()
        noisy = {_function(leak.site) for leak in alarms}
        for thing in LOOK_ALIKES:
            yield _row("ALARM" if thing.function in noisy else "silent", "", thing.title, f"{thing.function}()")
        for leak in alarms:
            yield _row("ALARM", leak.kind, "nobody planted that", phrases.place(leak.site))
        yield ""
        score = sum(map(self.found, PLANTED))
        yield f"{score} of {len(PLANTED)} planted bugs found, {phrases.plural(len(alarms), 'false alarm')}"


def _row(word: str, kind: str, title: str, where: str) -> str:
    return f"  {word:<6}  {kind:<19}  {title:<40}  {where}"


def _function(site: Site | None) -> str:
    return site.function.rpartition(".")[2] if site is not None else ""
