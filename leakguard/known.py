"""Which leaks are known already: those that a baseline lists, or those that an earlier run has had.

A baseline says how many of a leak may occur. The events of an earlier run say no more than that it occurred: two runs
do not last equally long, so their counts are not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from leakguard import baseline
from leakguard.baseline import Baseline, BaselineError, Found, Match
from leakguard.evidence import Evidence
from leakguard.model import Kind
from leakguard.prose import phrases

Standing: TypeAlias = Literal["new", "known", "more"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The known leaks: a baseline's entries, and the fingerprints of an earlier run."""

    baseline: Baseline = field(default_factory=Baseline)
    earlier: frozenset[str] = frozenset()

    def standing(self, fingerprint: str, counts: Mapping[Kind, int]) -> tuple[Standing, str]:
        """Whether so many leaks of these kinds are known, and a few words about why."""
        if fingerprint in self.earlier:
            return "known", "the earlier run had it"
        entry = self.baseline.entries.get(fingerprint)
        if entry is None:
            return "new", ""
        match = Match(entry, Found(fingerprint=fingerprint, counts=counts))
        limit = f"the baseline has at most {entry.max_count}"
        if entry.kinds:
            limit += f" of {', '.join(entry.kinds)}"
        if match.excess:
            return "more", f"{limit}, this is {match.excess} more"
        return "known", f"{limit}: {entry.reason}" if entry.reason else limit

    def covered(self, evidence: Evidence) -> frozenset[str]:
        """The fingerprints of which everything in the evidence is known."""
        return frozenset(
            name for name, group in evidence.groups.items() if self.standing(name, group.counts)[0] == "known"
        )


def load(file: Path) -> Known:
    """The known leaks of a file: a baseline, or JSON Lines that leakguard wrote; the first character tells them apart.

    Raises BaselineError for a file that is neither.
    """
    try:
        with file.open("rb") as stream:
            if not stream.read(4096).lstrip().startswith(b"{"):
                return Known(baseline=baseline.load(file))
            stream.seek(0)
            earlier = Evidence()
            earlier.read(file, stream)
    except FileNotFoundError:
        raise BaselineError(f"there is no baseline {file}") from None
    except OSError as error:
        raise BaselineError(f"the baseline {file} cannot be read: {error.strerror or error}") from None
    for lines, first, reason in earlier.skipped.damaged.values():
        if not earlier.processes and not earlier.groups:
            raise BaselineError(
                f"{file} is neither a baseline nor a file of events: {phrases.plural(lines, 'line')} that no leakguard "
                f"wrote, the first is line {first}: {reason}"
            )
    return Known(earlier=frozenset(earlier.groups))
