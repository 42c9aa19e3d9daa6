"""What all integrations share: the interface to the guard, and the rule that they never hurt the application."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from leakguard.model import Cause
from leakguard.patching import Patches
from leakguard.process.interruptions import is_interruption
from leakguard.register.records import HoldRecord, PoolRecord, Watch, Wire
from leakguard.register.tracker import Tracker

opening_for: Final[ContextVar[PoolRecord | None]] = ContextVar("leakguard_opening_for", default=None)
"""The pool on whose behalf a connection is being opened in this context, if that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A library's version range: at least `lowest`, below `below`; both as release numbers."""

    lowest: tuple[int, ...]
    below: tuple[int, ...]

    def admits(self, version: str) -> bool:
        """Whether a version string is within the range; only its leading numbers count."""
        return self.lowest <= release(version) < self.below

    def __str__(self) -> str:
        return f">={'.'.join(map(str, self.lowest))},<{'.'.join(map(str, self.below))}"


def release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``"2.1.0b3"`` gives ``(2, 1, 0)``."""
    numbers: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


class Runtime(Protocol):
    """What an integration needs of the guard above it."""

    @property
    def tracker(self) -> Tracker:
        """The register of holds."""

    def internal_error(self, where: str, error: BaseException) -> None:
        """Count and log, once, an error of leakguard's own; the application must not notice."""

    def raise_pending(self, leaks: list[object]) -> None:
        """Raise the leaks that ``on_leak="raise"`` has waiting."""

    def exhausted(
        self,
        error: BaseException,
        *,
        watch: Watch,
        pool: PoolRecord | None,
        cause: Cause,
        holds: list[HoldRecord],
        server_words: str | None = None,
        told: bool = True,
    ) -> None:
        """An acquire failed for want of a connection: put the holders on the exception, and report it if `told`."""


def unrecorded(runtime: Runtime, record: PoolRecord, wire: Wire | None) -> None:
    """An error of our own came in between while an acquire was recorded: nobody watches this hold. Raises nothing of
    ours."""
    try:
        record.baseline = None  # it is out all the same, and no lost slot
        for hold in record.holds():
            if wire is not None and hold.wire is wire:
                runtime.tracker.forget(hold)
    except Exception as failure:  # out of memory, perhaps, and still so
        runtime.internal_error("unrecorded", failure)


def released_after_all(runtime: Runtime, hold: HoldRecord | None, error: Exception) -> None:
    """An error of our own came in between while `hold` was ended: end it, else what was given back would be told as
    leaked. One of the application's prevents the release itself: the hold goes on. Raises nothing of ours."""
    try:
        if hold is not None:
            runtime.tracker.restore(hold)
            if not is_interruption(error):
                runtime.tracker.released(hold)
    except Exception as failure:
        runtime.internal_error("released", failure)


def closed_after_all(runtime: Runtime, connection: object, is_closed: Callable[[], bool]) -> None:
    """The same for a direct connection, if it is closed by now. Raises nothing of ours."""
    try:
        wire = runtime.tracker.dying_wire_of(connection)
        if wire is not None and is_closed():
            runtime.tracker.wire_closed(wire)
            for hold in runtime.tracker.direct.holds():
                if hold.wire is wire:
                    runtime.tracker.restore(hold)
                    runtime.tracker.released(hold)
    except Exception as failure:
        runtime.internal_error("closed", failure)


class Integration(Protocol):
    """One library."""

    @property
    def module(self) -> str:
        """The module by which the library is imported."""

    @property
    def versions(self) -> Version | None:
        """The versions that the integration was made for; None where any will do."""

    def install(self, runtime: Runtime, patches: Patches) -> None:
        """Patch and listen; whatever is done is registered with `patches` for its undo."""
