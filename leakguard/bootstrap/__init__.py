"""What ``leakguard run`` puts in front of the Python processes that it starts."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from leakguard.model import Event

QUIET: Final = "LEAKGUARD_RUN_QUIET"
"""Environment: "1" where no leak texts are wanted on standard error."""
VERDICT: Final = "LEAKGUARD_RUN_VERDICT"
"""Environment: the file whose existence tells ``run --fail`` that a certain leak was found."""


def start() -> None:
    """Install leakguard for the life of this process, as its environment says. Raises what is wrong with that."""
    from leakguard import boundaries, runtime
    from leakguard.settings import OnLeak, resolve

    settings = resolve({})
    actions: list[OnLeak] = [action for action in settings.on_leak if action != "log"]
    if os.environ.get(QUIET) != "1":
        from leakguard.reporters.text import TextReporter

        actions.append(TextReporter())
    guard = boundaries.install(on_leak=actions or [_silent])
    if guard.settings.enabled:
        verdict = os.environ.get(VERDICT)
        runtime.current().pin(_Verdict(verdict).report if verdict else _silent)


def _silent(_event: Event) -> None:
    """The reporter of ``run --quiet`` without a report: the events are only counted."""


class _Verdict:
    """Leaves a file behind as soon as a leak is certain: the way to tell ``run --fail``, also from child processes."""

    def __init__(self, path: str) -> None:
        self._path = path

    def report(self, event: Event) -> None:
        """Look at one event."""
        if event.event == "leak" and event.certain:
            try:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except FileNotFoundError:
                pass  # a process that outlives the command: `run` has given its verdict and gone


def explain(error: BaseException) -> None:
    """Say in one line why this process runs unguarded."""
    text = str(error).removeprefix("leakguard: ")
    print(f"leakguard: process {os.getpid()} runs unguarded: {text}", file=sys.stderr)
