"""What leakguard adds to a program's start."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from figures import Goal
from workers import processor_time_of, quiet_environment

BARE, IMPORT, INSTALL = "pass", "import leakguard", "import leakguard; leakguard.install()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Startup:
    """Seconds of processor time, on top of a bare interpreter's start; with compiled files in place."""

    bare: float
    importing: float
    installing: float

    def lines(self) -> Iterator[str]:
        """One line."""
        yield ""
        yield "Start (processor time, on top of a bare interpreter, compiled files in place)"
        yield (
            f"  import leakguard: {self.importing * 1e3:.1f} ms;"
            f" import, install, exit: {self.installing * 1e3:.1f} ms;"
            f" the bare interpreter: {self.bare * 1e3:.1f} ms"
        )

    def figures(self) -> dict[str, object]:
        """The same."""
        return asdict(self)

    def goals(self) -> Iterator[Goal]:
        """Of the import."""
        yield Goal(what="import leakguard", figure=self.importing * 1e3, limit=20, unit=" ms")


def measure(repeats: int) -> Startup:
    """Start interpreters, in turns: one that does nothing, one that imports leakguard, one that also installs it."""
    programs: dict[str, list[float]] = {BARE: [], IMPORT: [], INSTALL: []}
    with tempfile.TemporaryDirectory() as directory:
        environment = quiet_environment(PYTHONPYCACHEPREFIX=directory)
        for turn in range(repeats + 1):
            for program, times in programs.items():
                taken = processor_time_of([sys.executable, "-c", program], cwd=directory, env=environment)
                if turn > 0:  # the first one compiles
                    times.append(taken)
    bare, importing, installing = (statistics.median(times) for times in programs.values())
    return Startup(bare=bare, importing=importing - bare, installing=installing - bare)
